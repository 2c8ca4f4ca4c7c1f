"""What is remembered. The only package that imports peewee."""
