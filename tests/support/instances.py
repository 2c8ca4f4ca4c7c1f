"""Instances that a test plays itself: real sockets, and every byte as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from skybridge_server.contracts.base import Call, Connect

Script = Callable[["Peer"], Awaitable[None]]


# How a script ends that was not waited for: we hung up, or the test is over.
_ENDS = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)


class Peer:
    """The instance's end of one connection; it is closed when the script ends."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        """Counted from 1."""
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """Read a request: its first line, its fields, its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(fields.get("content-length", "0")))
        return first, fields, body

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def until_closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.reader.read()

    def reset(self) -> None:
        """Break the connection, as a kernel does for a process that was killed."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Connect]:
    """Listen on loopback, and let the script do what it likes with each connection."""
    number = 0
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        try:
            with contextlib.suppress(*_ENDS):
                await script(Peer(number, reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    async def connect() -> socket.socket:
        return await connected(address)

    try:
        yield connect
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def connected(address: tuple[str, int]) -> socket.socket:
    """Return a connected, non-blocking socket; OSError when nothing listens."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def a_call(
    input_: bytes = b"hello",
    *,
    content_type: str = "text/plain",
    headers: dict[str, str] | None = None,
    execution: str = "e1",
    traceparent: str = "",
) -> Call:
    """Return a call of the third revision of namespaces/default/functions/hello."""
    return Call(
        execution=execution,
        function="namespaces/default/functions/hello",
        revision=3,
        input=input_,
        content_type=content_type,
        headers=headers or {},
        deadline=datetime(2100, 1, 31, 12, 0, 0, 123456, UTC),
        traceparent=traceparent,
    )


class Output:
    """A sink that keeps all, and lets the instance wait while a test says so."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.grew = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    @property
    def whole(self) -> bytes:
        return b"".join(self.chunks)

    def __call__(self, data: bytes) -> Awaitable[object] | None:
        self.chunks.append(data)
        self.grew.set()
        return None if self.free.is_set() else self.free.wait()
