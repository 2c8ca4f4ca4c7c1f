"""How input gets into a function and output comes out: `stdio`, `http`, `lambda_api`, and parts."""
