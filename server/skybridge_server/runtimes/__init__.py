"""What runs containers. The only package that imports docker."""
