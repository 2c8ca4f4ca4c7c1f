"""How input gets into a function and output comes out: `stdio`, `http`, and what they need."""
