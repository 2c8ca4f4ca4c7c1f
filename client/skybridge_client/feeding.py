"""What a caller sends while answers come back, over one connection after another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, Generic, Protocol, Self, TypeVar

from google.protobuf.message import Message

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)

Put = Callable[[Message | None], None]
"""Takes each message of a connection, and None where they end."""


def drop(_: Message | None) -> None:
    """Where messages go while there is no connection; what must arrive is kept anyway."""


class Rpc(Protocol):
    """A call under way, of grpc or of grpc.aio."""

    def cancel(self) -> object:
        """Ends the call."""
        ...

    def initial_metadata(self) -> Any:
        """Waits until the server has taken the call, or it is over."""
        ...


class Outbox(Protocol[Item_contra]):
    """Makes messages of what a caller gives, and keeps what must be sent again after a cut."""

    at_once: bool
    """Whether the source is read from the start, else from the first answer on."""

    @property
    def full(self) -> bool:
        """Whether too much is under way to add more."""
        ...

    def connect(self, put: Put) -> None:
        """Ends the connection before, and sends what is kept over a new one."""
        ...

    def disconnect(self) -> None:
        """Ends the connection; what is written from now on goes nowhere."""
        ...

    def write(self, item: Item_contra) -> None:
        """Sends something."""
        ...

    def close(self) -> None:
        """Sends the end."""
        ...

    def note(self, answer: Any) -> None:
        """Learns from an answer what need not be kept."""
        ...

    def merge(self, message: Any, following: Any) -> bool:
        """Puts a message that has not been sent into the one before it, if it can be done."""
        ...


class NoInput:
    """The feed of calls whose whole input is in their request."""

    _failure: Exception | None = None

    def connect(self, first: Message | None) -> Any:
        """The request of a new call, or all its requests."""
        return first

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source of the input fails."""

    def note(self, answer: Any) -> None:
        """Learns from an answer what of the input was taken."""

    def raise_failure(self) -> None:
        """Raises what the source of the input raised."""
        if self._failure:
            raise self._failure


NO_INPUT = NoInput()


class Feed(NoInput, Generic[Item]):
    """Reads a caller's input in a thread of its own, and feeds it to one call after another.

    A thread, since the source may block for as long as it likes, across cuts.
    """

    def __init__(self, source: Iterable[Item], outbox: Outbox[Item]) -> None:
        self._source = source
        self._outbox = outbox
        self._changed = threading.Condition()
        self._closed = False
        self._rpc: Rpc | None = None
        self._thread = threading.Thread(target=self._pump, name="skybridge-feed", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._outbox.disconnect()
            self._changed.notify_all()

    def connect(self, first: Message | None) -> Iterator[Message]:
        """The messages of a new call: the first one, then the input."""
        queue: SimpleQueue[Message | None] = SimpleQueue()
        if first is not None:
            queue.put(first)
        with self._changed:
            self._outbox.connect(queue.put)
        return self._messages(queue)

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source fails."""
        with self._changed:
            self._rpc = rpc
            if self._failure:
                rpc.cancel()
        if self._outbox.at_once:
            self._start()

    def note(self, answer: Any) -> None:
        """Starts with the first answer, and makes room where the server has taken input."""
        self._start()
        with self._changed:
            self._outbox.note(answer)
            self._changed.notify_all()

    def _messages(self, queue: SimpleQueue[Message | None]) -> Iterator[Message]:
        held: list[Message | None] = []
        while (message := held.pop() if held else queue.get()) is not None:
            while not (held or queue.empty()):
                following = queue.get()
                if following is None or not self._outbox.merge(message, following):
                    held.append(following)
            yield message

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _pump(self) -> None:
        try:
            for item in self._source:
                if not self._write(item):
                    return
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._fail(error)
        else:
            with self._changed:
                self._outbox.close()

    def _write(self, item: Item) -> bool:
        """Waits for room and writes; returns False when nobody wants input any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._outbox.full)
            if not self._closed:
                self._outbox.write(item)
            return not self._closed

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            if self._rpc:
                self._rpc.cancel()


class AsyncFeed(NoInput, Generic[Item]):
    """Reads a caller's input in a task of its own, and feeds it to one call after another.

    Nothing goes out before the server has taken the call: a write that meets the refusal makes
    grpc.aio forget the refusal's code (grpc/grpc#36066).
    """

    def __init__(self, source: AsyncIterable[Item], outbox: Outbox[Item]) -> None:
        self._source = source
        self._outbox = outbox
        self._room = asyncio.Event()
        self._room.set()
        self._rpc: Rpc | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._outbox.disconnect()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def connect(self, first: Message | None) -> AsyncIterator[Message]:
        """The messages of a new call: the first one, then the input."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        if first is not None:
            queue.put_nowait(first)
        self._outbox.connect(queue.put_nowait)
        return self._messages(queue)

    def connected(self, rpc: Rpc) -> None:
        """Learns which call has to end when the source fails."""
        self._rpc = rpc
        if self._failure:
            rpc.cancel()
        if self._outbox.at_once:
            self._start()

    def note(self, answer: Any) -> None:
        """Starts with the first answer, and makes room where the server has taken input."""
        self._start()
        self._outbox.note(answer)
        if not self._outbox.full:
            self._room.set()

    async def _messages(self, queue: asyncio.Queue[Message | None]) -> AsyncIterator[Message]:
        if self._rpc and self._outbox.at_once:
            await self._rpc.initial_metadata()
        held: list[Message | None] = []
        while (message := held.pop() if held else await queue.get()) is not None:
            while not (held or queue.empty()):
                following = queue.get_nowait()
                if following is None or not self._outbox.merge(message, following):
                    held.append(following)
            yield message

    def _start(self) -> None:
        self._task = self._task or asyncio.create_task(self._pump())

    async def _pump(self) -> None:
        try:
            async for item in self._source:
                await self._room.wait()
                self._outbox.write(item)
                if self._outbox.full:
                    self._room.clear()
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._failure = error
            if self._rpc:
                self._rpc.cancel()
        else:
            self._outbox.close()
