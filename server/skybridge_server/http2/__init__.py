"""HTTP/2 (RFC 9113), the server's side, as gRPC needs it; knows nothing of gRPC."""
