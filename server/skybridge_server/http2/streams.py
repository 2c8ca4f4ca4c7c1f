"""A stream: one request and its response, with a window for each direction."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import BadStreamError, ErrorCode

if TYPE_CHECKING:
    from skybridge_server.http2.connection import Connection

WINDOW = 256 * 1024
"""Bytes that a peer may send on a stream before its reader has taken them."""


class StreamClosedError(ConnectionError):
    """Nobody is there any more to send to."""


class Receiver(Protocol):
    """Where the request of a stream goes, as it comes.

    Once nothing works on it any more, `Stream.release` must be called.
    """

    def data(self, data: bytes) -> None:
        """Take a piece of the body. It must be `Stream.credit`ed, so that more may come."""
        ...

    def end(self) -> None:
        """Take note that the body is whole."""
        ...

    def lost(self) -> None:
        """Take note that the caller is gone, or does not want the response any more."""
        ...


class Stream:
    """What a response is sent on. For the event loop alone."""

    __slots__ = (
        "_allowance",
        "_connection",
        "_owed",
        "_remote_ended",
        "_room",
        "closed",
        "id",
        "receiver",
        "widened",
    )

    receiver: Receiver

    def __init__(self, connection: Connection, id_: int, *, ended: bool) -> None:
        """`ended`: the request has no body."""
        self._connection = connection
        self.id = id_
        self.widened = 0
        """By how much the peer has widened the window, less what was sent.

        Apart from the initial size, which is the connection's: a peer may change that at any time.
        """
        self.closed = False
        self._allowance = WINDOW
        self._owed = 0
        self._remote_ended = ended
        self._room: asyncio.Future[None] | None = None

    # What comes.

    def take(self, data: bytes, size: int, *, end: bool) -> None:
        """Hand on a piece of body that took `size` bytes of the window. BadStreamError."""
        if self._remote_ended:
            raise BadStreamError(ErrorCode.STREAM_CLOSED, "DATA after the end of the request")
        self._allowance -= size
        if self._allowance < 0:
            raise BadStreamError(ErrorCode.FLOW_CONTROL_ERROR, "more than the window of the stream")
        if size > len(data):
            self.credit(size - len(data))  # nobody reads padding
        if data:
            self.receiver.data(data)
        if end and not self.closed:
            self.take_end()

    def take_end(self) -> None:
        """Take note that the request is whole. BadStreamError."""
        if self._remote_ended:
            raise BadStreamError(ErrorCode.STREAM_CLOSED, "a second end of the request")
        self._remote_ended = True
        self.receiver.end()

    def credit(self, size: int) -> None:
        """Let the peer send as much again."""
        self._owed += size
        if self._owed * 2 >= WINDOW and not self._remote_ended and not self.closed:
            self._connection.write(frames.window_update(self.id, self._owed))
            self._allowance += self._owed
            self._owed = 0

    def widen(self, more: int) -> None:
        """Take note that the peer takes more. BadStreamError."""
        self.widened += more
        if self._connection.initial_window + self.widened > frames.MAX_WINDOW:
            raise BadStreamError(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
        self.wake()

    # What goes.

    def begin(self, block: bytes) -> None:
        """Send the headers of the response. StreamClosedError."""
        self._check()
        self._connection.write_headers(self, block)

    async def send(self, data: bytes) -> None:
        """Send a piece of the response, as fast as the peer takes it. StreamClosedError."""
        view = memoryview(data)
        while view:
            self._check()
            size = self._connection.room(self, len(view))
            if size:
                self._connection.write_data(self, view[:size])
                view = view[size:]
            else:
                await self._more_room()

    def end(self, block: bytes) -> None:
        """Send the trailers, or all of a response without a body. StreamClosedError."""
        self._check()
        self._connection.write_headers(self, block, end=True)
        self._close()

    def respond(self, headers: bytes, data: bytes, trailers: bytes) -> bool:
        """Send a response at once, if the peer takes it; else, return False. StreamClosedError."""
        self._check()
        if self._connection.room(self, len(data)) < len(data):
            return False
        self._connection.write_response(self, headers, data, trailers)
        self._close()
        return True

    def reset(self, code: ErrorCode) -> None:
        """Break off; nothing if it is closed."""
        if not self.closed:
            self._connection.write(frames.rst_stream(self.id, code))
            self._forget(whole=False)

    def lose(self) -> None:
        """Take note that the peer broke off."""
        if not self.closed:
            self._forget(whole=False)
            self.receiver.lost()

    def release(self) -> None:
        """Take note that nothing works on it any more, so that another may take its place."""
        self._connection.unreleased -= 1
        del self.receiver  # it refers to us: only the garbage collector would find the two

    def wake(self) -> None:
        """Look again for room."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _check(self) -> None:
        if self.closed:
            raise StreamClosedError("the caller is gone")

    def _close(self) -> None:
        if not self._remote_ended:
            # The response is whole: what the caller still sends is of no use.
            self._connection.write(frames.rst_stream(self.id, ErrorCode.NO_ERROR))
        self._forget(whole=True)

    def _forget(self, *, whole: bool) -> None:
        self.closed = True
        self.wake()
        self._connection.forget(self, whole=whole)

    async def _more_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        self._connection.blocked.add(self)
        try:
            await self._room
        finally:
            self._room = None
            self._connection.blocked.discard(self)
