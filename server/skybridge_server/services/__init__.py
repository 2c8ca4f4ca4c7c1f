"""Rules and order of work. No grpc, no peewee, no docker."""
