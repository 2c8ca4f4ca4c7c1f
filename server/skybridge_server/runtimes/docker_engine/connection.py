"""The hijacked connection to a container, driven by the event loop, with flow control both ways."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Protocol, cast

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.frames import FrameError

CHUNK_BYTES = 64 * 1024
# Output that waits for its reader: above the first the container is held back, until the second.
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
READ_BYTES = 128 * 1024


class Parser(Protocol):
    """Takes what comes in, cut anywhere, and gives output; raises ValueError."""

    @property
    def inside_frame(self) -> bool:
        """Whether an end here would come too early."""
        ...

    def feed(self, data: memoryview) -> Iterator[tuple[OutputStream, memoryview]]: ...


class Connection(asyncio.BufferedProtocol):
    """Keeps chunks of output for one reader, and lets writers wait while the engine is busy."""

    def __init__(self, parser: Parser, early: bytes) -> None:
        """Take the bytes that were read already."""
        self._parser = parser
        self._early = early
        self._buffer = bytearray(READ_BYTES)
        self._chunks: deque[tuple[OutputStream, bytearray]] = deque()
        self._waiting_bytes = 0
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport
        self.ended = False
        self.error: Exception | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A writer waits until all is out of our hands: what is not would be lost with this process.
        self._transport.set_write_buffer_limits(high=0)
        self.feed(memoryview(self._early))  # before the loop reads more

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.feed(memoryview(self._buffer)[:nbytes])

    def eof_received(self) -> bool:
        # An engine sends this when the container has ended; from then on it takes no more input,
        # but does not say so: it would let a writer wait for ever.
        self._end(None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._lost.set()

    def pause_writing(self) -> None:
        if not self.ended:
            self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What an attachment calls.

    def feed(self, data: memoryview) -> None:
        """Take bytes of the engine."""
        try:
            for stream, piece in self._parser.feed(data):
                self._keep(stream, piece)
        except ValueError as error:
            self._end(error)
            self._transport.abort()
        if self._waiting_bytes > HIGH_WATER_BYTES:
            self._transport.pause_reading()
        self._readable.set()

    async def read(self) -> tuple[OutputStream, bytes] | None:
        """Return the next chunk; None at the end, and `error` says whether it came too early."""
        while not self._chunks:
            if self.ended:
                return None
            self._readable.clear()
            await self._readable.wait()
        stream, chunk = self._chunks.popleft()
        self._waiting_bytes -= len(chunk)
        if self._waiting_bytes < LOW_WATER_BYTES:
            self._transport.resume_reading()
        return stream, bytes(chunk)

    async def write(self, data: bytes) -> None:
        """Write; waits while the other side takes nothing, BrokenPipeError once it has ended."""
        if not self.ended:
            self._transport.write(data)
            await self._writable.wait()
        if self.ended:
            raise BrokenPipeError("the container reads no more input")

    def write_eof(self) -> None:
        if not self.ended:
            self._transport.write_eof()

    async def close(self) -> None:
        self._transport.abort()
        await self._lost.wait()

    def _keep(self, stream: OutputStream, piece: memoryview) -> None:
        self._waiting_bytes += len(piece)
        while piece:
            if not self._chunks or not _takes_more(self._chunks[-1], stream):
                self._chunks.append((stream, bytearray()))
            chunk = self._chunks[-1][1]
            room = CHUNK_BYTES - len(chunk)
            chunk += piece[:room]
            piece = piece[room:]

    def _end(self, error: Exception | None) -> None:
        if self.ended:
            return
        self.ended = True
        if error is None and self._parser.inside_frame:
            error = FrameError("the connection ended inside a frame of output")
        self.error = error
        self._readable.set()
        self._writable.set()


def _takes_more(last: tuple[OutputStream, bytearray], stream: OutputStream) -> bool:
    return last[0] is stream and len(last[1]) < CHUNK_BYTES
