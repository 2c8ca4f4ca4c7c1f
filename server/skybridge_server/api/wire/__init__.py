"""gRPC over HTTP/2, the server's side.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
