"""Reading a container's log: docker-py makes the request, the event loop takes over."""

from __future__ import annotations

import asyncio
import socket

from docker import APIClient

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.attachment import DockerOutput, connect
from skybridge_server.runtimes.docker_engine.connection import Connection
from skybridge_server.runtimes.docker_engine.log_lines import LogParser
from skybridge_server.runtimes.docker_engine.streams import open_stream, take_over

CLOSE = {"Connection": "close"}


class DockerRecording(DockerOutput):
    """What a container has written, as the engine keeps it."""

    def __init__(
        self,
        connection: Connection,
        carrier: asyncio.Task[None] | None,
        parser: LogParser,
        room: int,
    ) -> None:
        """Take what reads the log, and how large one can be that still has its beginning."""
        super().__init__(connection, carrier)
        self._parser = parser
        self._room = room

    @property
    def whole(self) -> bool:
        return self._parser.log_bytes < self._room

    @property
    def doubtful(self) -> frozenset[OutputStream]:
        return self._parser.doubtful


def log_path(container_id: str, *, follow: bool) -> str:
    return f"/containers/{container_id}/logs?stdout=1&stderr=1&follow={int(follow)}"


def request_log(
    client: APIClient, container_id: str, *, follow: bool
) -> tuple[socket.socket, bytes]:
    """Ask for a log; return its connection, and what of it was read already. Blocks."""
    path = log_path(container_id, follow=follow)
    return take_over(open_stream(client, path, {}, CLOSE, method="GET"))


async def record(
    sock: socket.socket,
    room: int,
    *,
    early: bytes = b"",
    carrier: asyncio.Task[None] | None = None,
) -> DockerRecording:
    """Let the event loop read a log, of which `early` was read already."""
    parser = LogParser()
    return DockerRecording(await connect(sock, parser, early), carrier, parser, room)
