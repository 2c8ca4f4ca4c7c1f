"""Just enough of an engine to negotiate with."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from threading import Thread


class TinyEngine:
    """Answers `version` and `info` on a unix socket.

    By threads of its own, which it joins: a loop that ends leaves sockets that it has just
    accepted to be collected as garbage.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version: str | None = "1.41"
        self.asked: list[str] = []
        self._listening: _Listening | None = None

    def start(self) -> None:
        self._listening = _Listening(self)

    async def stop(self) -> None:
        """End as dockerd does: the socket vanishes. Twice is once."""
        if self._listening:
            await asyncio.to_thread(self._listening.close)
            self.path.unlink()
            self._listening = None

    def answer(self, path: str) -> bytes:
        """Answer what was asked for."""
        self.asked.append(path)
        return json.dumps({"ApiVersion": self.version} if self.version else {}).encode()


class _Listening(ThreadingUnixStreamServer):
    """A thread that accepts, and one for each connection."""

    daemon_threads = False  # else they are not joined

    def __init__(self, engine: TinyEngine) -> None:
        super().__init__(str(engine.path), _Connection)
        self.engine = engine
        self._accepting = Thread(target=self.serve_forever, args=(0.05,))
        self._accepting.start()

    def close(self) -> None:
        self.shutdown()
        self._accepting.join()
        self.server_close()


class _Connection(StreamRequestHandler):
    """One question and its answer."""

    server: _Listening

    def handle(self) -> None:
        with suppress(ConnectionError):
            question = self.rfile.readline()
            if not question:  # somebody only looked whether there is an engine
                return
            while self.rfile.readline().strip():
                pass
            body = self.server.engine.answer(question.split()[1].decode())
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            self.wfile.write(head % len(body) + body)
