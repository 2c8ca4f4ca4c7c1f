"""How input gets into a function and output comes out: one contract a file."""
