"""A container engine's answer to POST /build, scripted, behind a unix socket or a port."""

from __future__ import annotations

import io
import json
import socketserver
import ssl
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class ScriptedEngine:
    """What the engine answers, and what it was sent."""

    host: str
    status: int = 200
    answer: list[dict[str, Any]] | bytes = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    contexts: list[dict[str, tarfile.TarInfo]] = field(default_factory=list)

    def body(self) -> bytes:
        if isinstance(self.answer, bytes):
            return self.answer
        return b"".join(json.dumps(message).encode() + b"\r\n" for message in self.answer)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@contextmanager
def scripted_engine(
    socket: Path | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedEngine]:
    """Serves on a unix socket, or on a free port of loopback."""
    engine = ScriptedEngine(host="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            assert url.path == "/build"
            query = parse_qs(url.query, strict_parsing=True)
            engine.queries.append({key: values[0] for key, values in query.items()})
            packed = self.rfile.read(int(self.headers["Content-Length"]))
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
                engine.contexts.append({entry.name: entry for entry in tar})
            self.send_response(engine.status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            body = engine.body()
            for start in range(0, len(body), 10):
                piece = body[start : start + 10]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def address_string(self) -> str:
            return "client"

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    server: socketserver.BaseServer
    if socket:
        server = _UnixServer(str(socket), Handler)
        engine.host = f"unix://{socket}"
    else:
        server = _TcpServer(("127.0.0.1", 0), Handler)
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        engine.host = f"tcp://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
