"""Output on its way from a connection to a sink, in order and with backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from skybridge_server.contracts.base import Sink

CHUNK_BYTES = 64 * 1024
HIGH_WATER_BYTES = 256 * 1024
"""What waits for the sink before the connection is read no further."""
WHOLE_BYTES = 64 * 1024
"""What is waited for as a whole at most."""


class Delivery:
    """Takes output from a protocol's callbacks, and gives it to the sink of the call's task."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._source: asyncio.ReadTransport | None = None
        self._error: Exception | None = None
        self._finished = False
        self._abandoned = False
        self._on_whole: Callable[[], None] | None = None

    def add(self, data: bytes, source: asyncio.ReadTransport) -> None:
        """Take output; `source` is paused while too much of it waits."""
        if self._abandoned or self._finished:
            return
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER_BYTES and self._source is None:
            self._source = source
            source.pause_reading()
        if self._on_whole is None or self._waiting_bytes > WHOLE_BYTES:
            self._wake()

    def finish(self, error: Exception | None = None) -> None:
        """Take the end: no more output comes. Only the first one counts."""
        if not self._finished:
            self._finished = True
            self._error = error
            self._wake()

    def on_whole(self, call: Callable[[], None]) -> None:
        """Have something called at the end, or once more than WHOLE_BYTES wait."""
        self._on_whole = call
        if self._finished or self._waiting_bytes > WHOLE_BYTES:
            self._wake()

    @property
    def collected(self) -> list[bytes] | None:
        """All of the output, once the end has come without an error."""
        return self._chunks if self._finished and self._error is None else None

    async def to(self, sink: Sink) -> None:
        """Give everything to a sink until the end; raises the error that was the end.

        What comes after that is dropped.
        """
        self._on_whole = None
        try:
            while self._chunks or not self._finished:
                await self._give(sink)
        except BaseException:
            self._abandoned = True
            self._chunks.clear()
            self._waiting_bytes = 0
            self._resume()
            raise
        if self._error is not None:
            raise self._error

    async def _give(self, sink: Sink) -> None:
        """Give what is there, or wait for more."""
        if not self._chunks:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunks, self._chunks = self._chunks, []
        for data in chunks:
            for start in range(0, len(data), CHUNK_BYTES):
                waiting = sink(data[start : start + CHUNK_BYTES])
                if waiting is not None:
                    await waiting
            self._waiting_bytes -= len(data)
        self._resume()

    def _resume(self) -> None:
        if self._source is not None and self._waiting_bytes <= HIGH_WATER_BYTES:
            if not self._source.is_closing():
                self._source.resume_reading()
            self._source = None

    def _wake(self) -> None:
        if self._on_whole is not None:
            call, self._on_whole = self._on_whole, None
            call()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
