"""A real engine behind a socket that answers some requests by itself."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support.waiting import PATIENCE

_REASON = b'{"message": "cannot toggle freezer: cgroups not configured for container"}'
REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_REASON), _REASON)
)


class NoPauses:
    """Hands everything on to the machine's engine, but refuses to pause, as some engines do."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "engine.sock"
        self._engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")[7:]
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self._path))
        self._threads = [threading.Thread(target=self._accept)]
        self.refused = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self._path}"}

    def __enter__(self) -> Self:
        self._listening.listen(64)
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the end of all connections, which the callers must have closed."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(caller,)))
                self._threads[-1].start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._engine)
            answers = threading.Thread(target=_copy, args=(engine, caller))
            answers.start()
            with suppress(OSError):
                while data := caller.recv(64 * 1024):
                    if b"/pause HTTP/1.1" in data.partition(b"\r\n")[0]:
                        self.refused += 1
                        caller.sendall(REFUSAL)
                    else:
                        engine.sendall(data)
            with suppress(OSError):
                engine.shutdown(socket.SHUT_WR)
            answers.join(PATIENCE)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(64 * 1024):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
