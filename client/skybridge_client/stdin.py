"""What goes to the stdin of an attached execution, and how it survives a cut."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, Self

from google.protobuf.message import Message

from skybridge.faas.v1.execution_pb2 import ExecutionEvent, InputAck
from skybridge.faas.v1.execution_service_pb2 import AttachExecutionRequest, InputChunk, Signal

CHUNK_BYTES = 64 * 1024
KEPT_BYTES = 1024 * 1024
"""Bytes that may be under way: as many are kept for a repeat, then the source has to wait."""

Put = Callable[[Message | None], None]


class Rpc(Protocol):
    """A call under way, of grpc or of grpc.aio."""

    def cancel(self) -> object:
        """Ends the call."""
        ...


class Stdin:
    """The input that the server has not yet taken, and the connection that it goes to.

    Does no I/O: `put` of the connection takes each message, and None where it ends.
    """

    def __init__(self) -> None:
        self._kept: deque[InputChunk] = deque()
        self._end = 0
        self._taken = 0
        self._closed = False
        self._put: Put = _drop

    @property
    def full(self) -> bool:
        """Whether too much is under way to add more."""
        return self._end - self._taken >= KEPT_BYTES

    def connect(self, put: Put) -> None:
        """Ends the connection before, and sends everything that is not yet taken over a new one.

        The server skips what it has taken and we do not know of: each chunk has its offset.
        """
        self._put(None)
        self._put = put
        for chunk in self._kept:
            put(AttachExecutionRequest(input=chunk))
        if self._closed:
            put(None)

    def disconnect(self) -> None:
        """Ends the connection; what is written from now on goes nowhere."""
        self._put(None)
        self._put = _drop

    def write(self, item: bytes | Signal) -> None:
        """Sends bytes, or a signal; a signal that meets a cut is lost, since twice is worse."""
        if isinstance(item, Signal):
            self._put(AttachExecutionRequest(signal=item))
            return
        for start in range(0, len(item), CHUNK_BYTES):
            data = item[start : start + CHUNK_BYTES]
            self._send(InputChunk(offset=self._end, data=data))
            self._end += len(data)

    def close(self) -> None:
        """Sends the end of stdin."""
        self._send(InputChunk(offset=self._end, end_of_input=True))
        self._closed = True
        self._put(None)

    def taken(self, ack: InputAck) -> None:
        """Forgets what the server has handed to the container."""
        self._taken = max(self._taken, ack.committed_bytes)
        while self._kept and _is_taken(self._kept[0], ack):
            self._kept.popleft()

    def _send(self, chunk: InputChunk) -> None:
        self._kept.append(chunk)
        self._put(AttachExecutionRequest(input=chunk))


def _is_taken(chunk: InputChunk, ack: InputAck) -> bool:
    if chunk.end_of_input:
        return ack.closed
    return chunk.offset + len(chunk.data) <= ack.committed_bytes


def _drop(_: Message | None) -> None:
    """Where messages go while there is no connection; what must arrive is kept anyway."""


class NoInput:
    """The feed of calls whose whole input is in their request."""

    _failure: Exception | None = None

    def connect(self, first: Message) -> Any:
        """The request of a new call, or all its requests."""
        return first

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source of the input fails."""

    def note(self, event: ExecutionEvent) -> None:
        """Learns from an event how much of the input was taken."""

    def raise_failure(self) -> None:
        """Raises what the source of the input raised."""
        if self._failure:
            raise self._failure


NO_INPUT = NoInput()


class Feed(NoInput):
    """Reads a caller's input in a thread of its own, and feeds it to one call after another.

    A thread, since the source may block for as long as it likes, across cuts.
    """

    def __init__(self, source: Iterable[bytes | Signal]) -> None:
        self._source = source
        self._stdin = Stdin()
        self._changed = threading.Condition()
        self._closed = False
        self._rpc: Rpc | None = None
        self._thread = threading.Thread(target=self._pump, name="skybridge-stdin", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._stdin.disconnect()
            self._changed.notify_all()

    def connect(self, first: Message) -> Iterator[Message]:
        """The messages of a new call: the first one, then the input."""
        queue: SimpleQueue[Message | None] = SimpleQueue()
        queue.put(first)
        with self._changed:
            self._stdin.connect(queue.put)
        return iter(queue.get, None)

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source fails."""
        with self._changed:
            self._rpc = rpc
            if self._failure:
                rpc.cancel()

    def note(self, event: ExecutionEvent) -> None:
        """Starts with the first event, and makes room where the server has taken input."""
        if self._thread.ident is None:
            self._thread.start()
        if event.HasField("input_ack"):
            with self._changed:
                self._stdin.taken(event.input_ack)
                self._changed.notify_all()

    def _pump(self) -> None:
        try:
            for item in self._source:
                if not self._write(item):
                    return
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._fail(error)
        else:
            with self._changed:
                self._stdin.close()

    def _write(self, item: bytes | Signal) -> bool:
        """Waits for room and writes; returns False when nobody wants input any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._stdin.full)
            if not self._closed:
                self._stdin.write(item)
            return not self._closed

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            if self._rpc:
                self._rpc.cancel()


class AsyncFeed(NoInput):
    """Reads a caller's input in a task of its own, and feeds it to one call after another.

    No input goes out before the server has accepted the call: a write that meets the refusal
    makes grpc.aio forget the refusal's code (grpc/grpc#36066).
    """

    def __init__(self, source: AsyncIterable[bytes | Signal]) -> None:
        self._source = source
        self._stdin = Stdin()
        self._room = asyncio.Event()
        self._room.set()
        self._rpc: Rpc | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stdin.disconnect()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def connect(self, first: Message) -> AsyncIterator[Message]:
        """The messages of a new call: the first one, then the input."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        queue.put_nowait(first)
        self._stdin.connect(queue.put_nowait)
        return _until_none(queue)

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source fails."""
        self._rpc = rpc
        if self._failure:
            rpc.cancel()

    def note(self, event: ExecutionEvent) -> None:
        """Starts with the first event, and makes room where the server has taken input."""
        self._task = self._task or asyncio.create_task(self._pump())
        if event.HasField("input_ack"):
            self._stdin.taken(event.input_ack)
            if not self._stdin.full:
                self._room.set()

    async def _pump(self) -> None:
        try:
            async for item in self._source:
                await self._room.wait()
                self._stdin.write(item)
                if self._stdin.full:
                    self._room.clear()
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._failure = error
            if self._rpc:
                self._rpc.cancel()
        else:
            self._stdin.close()


async def _until_none(queue: asyncio.Queue[Message | None]) -> AsyncIterator[Message]:
    while (message := await queue.get()) is not None:
        yield message
