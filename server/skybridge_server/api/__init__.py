"""The door: gRPC and protobuf stop here. Checks and converts requests, calls services, answers."""
