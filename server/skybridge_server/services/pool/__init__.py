"""Containers that are kept: started when executions wait, reused, and removed when idle."""
