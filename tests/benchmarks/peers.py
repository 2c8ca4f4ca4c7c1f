"""Instances for the wire benchmark, as plain as can be: `echo`, `http` or `lambda`, and a port.

The first two listen on the port and print a line once they do; the last one connects to it.
"""

from __future__ import annotations

import socket
import sys

SIZE = 1024
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % SIZE
NEXT = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"
ID = b"Lambda-Runtime-Aws-Request-Id: "


def receive(sock: socket.socket) -> bytes:
    """Read what is there; the end of the connection, one way or the other, is ours."""
    try:
        data = sock.recv(65536)
    except ConnectionError:
        sys.exit()
    return data or sys.exit()


def read_message(sock: socket.socket) -> tuple[bytes, bytes]:
    """Read a head and a body, whose length is known."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + SIZE:
        data += receive(sock)
    return data[:end], data[end + 4 :]


def serve(kind: str, port: int) -> None:
    """Answer on one connection after the other."""
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while kind == "echo" and (data := receive(sock)):
            sock.sendall(data)
        while kind == "http":
            _, body = read_message(sock)
            sock.sendall(ANSWER + body)


def work(port: int) -> None:
    """Fetch events, and answer each with itself."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            sock.sendall(NEXT)
            head, event = read_message(sock)
            name = head.partition(ID)[2].partition(b"\r\n")[0]
            path = b"/2018-06-01/runtime/invocation/%b/response" % name
            sock.sendall(
                b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path, SIZE, event)
            )
            receive(sock)


if __name__ == "__main__":
    if sys.argv[1] == "lambda":
        work(int(sys.argv[2]))
    else:
        serve(sys.argv[1], int(sys.argv[2]))
