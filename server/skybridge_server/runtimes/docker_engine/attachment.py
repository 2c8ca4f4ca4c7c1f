"""Attaching: docker-py makes the request, the event loop takes over its connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

from docker import APIClient

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.connection import Connection, Parser
from skybridge_server.runtimes.docker_engine.frames import FrameParser
from skybridge_server.runtimes.docker_engine.streams import open_stream, take_over

STREAMS = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}


class DockerOutput:
    """A connection from which output comes."""

    def __init__(self, connection: Connection, carrier: asyncio.Task[None] | None) -> None:
        """Take the connection, and the task that stands between it and the engine, if any."""
        self._connection = connection
        self._carrier = carrier

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        while chunk := await self._connection.read():
            yield chunk
        if error := self._connection.error:
            raise RuntimeUnavailableError(
                f"the connection to the container engine broke: {error}"
            ) from error

    async def close(self) -> None:
        await self._connection.close()
        if self._carrier:
            self._carrier.cancel()
            await asyncio.wait({self._carrier})


class DockerAttachment(DockerOutput):
    """The two-way connection to a container's stdin, stdout and stderr."""

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)

    async def close_input(self) -> None:
        self._connection.write_eof()

    @property
    def outlives_us(self) -> bool:
        return self._carrier is None  # which is a part of us


def request_attachment(client: APIClient, container_id: str) -> tuple[socket.socket, bytes]:
    """Ask for an attachment; return its connection, and what of it was read already. Blocks."""
    return take_over(open_stream(client, f"/containers/{container_id}/attach", STREAMS, UPGRADE))


async def drive(
    sock: socket.socket, *, early: bytes = b"", carrier: asyncio.Task[None] | None = None
) -> DockerAttachment:
    """Let the event loop drive an attachment, of which `early` was read already."""
    return DockerAttachment(await connect(sock, FrameParser(), early), carrier)


async def connect(sock: socket.socket, parser: Parser, early: bytes) -> Connection:
    """Let the event loop drive a connection, of which `early` was read already."""
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(lambda: Connection(parser, early), sock=sock)
    except BaseException:
        sock.close()  # which ends the carrier, too
        raise
    return connection
