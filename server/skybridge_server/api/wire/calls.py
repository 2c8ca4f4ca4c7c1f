"""A call: takes the messages of a request, runs what answers it, and sends the response."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from skybridge_server.api.wire import status
from skybridge_server.api.wire.messages import MessageReader, Packed, framed, unpacked
from skybridge_server.api.wire.requests import Metadata, Request
from skybridge_server.api.wire.room import Room
from skybridge_server.api.wire.status import CallError
from skybridge_server.http2.errors import ErrorCode
from skybridge_server.http2.streams import Stream, StreamClosedError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Method:
    """What answers calls of one method."""

    behaviour: Callable[[Any, Call], Awaitable[Any]]
    """Gets the request, or an iterator over requests. Returns the response, or writes responses."""
    read: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    request_streaming: bool
    response_streaming: bool


class Call:
    """One call, and the context of what answers it: as much of grpc's as anything here uses.

    For the event loop alone.
    """

    __slots__ = (
        "_begun",
        "_deadline",
        "_done",
        "_held",
        "_messages",
        "_method",
        "_more",
        "_reader",
        "_request",
        "_room",
        "_size",
        "_stream",
        "_task",
        "_timer",
        "_whole",
        "succeeded",
    )

    def __init__(
        self,
        stream: Stream,
        request: Request,
        method: Method,
        room: Room,
        done: Callable[[Call], None],
    ) -> None:
        """`done` is told once nothing of the call runs any more."""
        self._stream = stream
        self._request = request
        self._method = method
        self._room = room
        self._done = done
        self._reader = MessageReader()
        self._messages: deque[Packed] = deque()
        self._held = 0
        """Bytes that came and for which the caller has got no credit yet."""
        self._size = 0
        """Bytes that came and are still here."""
        self._whole = False
        self._more: asyncio.Future[None] | None = None
        self._begun = False
        self.succeeded = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        if request.timeout is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + request.timeout
            self._timer = loop.call_at(self._deadline, self._expire)
        if method.request_streaming:
            self._start()

    # What the stream calls.

    def data(self, data: bytes) -> None:
        """Take a piece of the request."""
        self._held += len(data)
        try:
            self._room.take(len(data))
            self._size += len(data)
            self._messages.extend(self._reader.read(data))
        except CallError as error:
            self._fail(error)
            return
        if self._method.request_streaming and self._messages:
            self._tell()  # whoever takes the messages gives credit for them
        elif len(self._messages) <= 1:
            self._give_credit()  # a message may be larger than the window
        else:
            self._fail(CallError(grpc.StatusCode.INTERNAL, "more than one request message"))

    def end(self) -> None:
        """Take note that the request is whole."""
        self._whole = True
        if not self._reader.whole:
            self._fail(CallError(grpc.StatusCode.INTERNAL, "the last message is not complete"))
        elif self._method.request_streaming:
            self._tell()
        elif self._messages:
            self._start()
        else:
            self._fail(CallError(grpc.StatusCode.INTERNAL, "no request message"))

    def lost(self) -> None:
        """Stop: nobody waits for the response."""
        if self._task is None:
            self._end()
        else:
            self._task.cancel()

    # What answers the call uses.

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent along."""
        return self._request.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds to the caller's deadline; None: it has none."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def send_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send what comes before the first message, now. StreamClosedError."""
        self._begun = True
        self._stream.begin(status.initial(metadata))

    async def write(self, response: Any) -> None:
        """Send a message, once the caller takes it. StreamClosedError."""
        await self._send(framed(self._method.serialize(response)))

    # The server uses it, to stop.

    def cancel(self) -> None:
        """End the call: the server stops."""
        self._fail(CallError(grpc.StatusCode.UNAVAILABLE, "the server stops"))

    # Inside.

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        # Nothing of a task that is cancelled before its first step runs, not even a `finally`.
        self._task.add_done_callback(self._end)

    async def _run(self) -> None:
        try:
            request = self._requests() if self._method.request_streaming else self._take()
            response = await self._method.behaviour(request, self)
            if self._method.response_streaming:
                self._finish(status.OK)
            else:
                await self._respond(framed(self._method.serialize(response)))
            self.succeeded = True
        except CallError as error:
            self._finish_failed(error)
        except StreamClosedError:
            pass
        except asyncio.CancelledError:
            self._stream.reset(ErrorCode.CANCEL)
        except Exception:
            log.exception("call failed")
            self._finish_failed(CallError(grpc.StatusCode.INTERNAL, "internal error"))

    async def _respond(self, data: bytes) -> None:
        if self._begun or not self._stream.respond(status.INITIAL, data, status.OK):
            await self._send(data)
            self._stream.end(status.OK)

    async def _send(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._stream.begin(status.INITIAL)
        await self._stream.send(data)

    def _finish(self, trailers: bytes) -> None:
        self._stream.end(trailers if self._begun else status.INITIAL + trailers)

    def _finish_failed(self, error: CallError) -> None:
        if not self._stream.closed:
            self._finish(status.trailers(error))

    def _expire(self) -> None:
        self._fail(CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _fail(self, error: CallError) -> None:
        """End the call before its time."""
        self._finish_failed(error)
        self.lost()

    def _end(self, _: object = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stream.release()
        self._room.give_back(self._size)
        self._done(self)

    def _give_credit(self) -> None:
        held, self._held = self._held, 0
        self._stream.credit(held)

    def _tell(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            while self._messages:
                taken = self._messages[0].size
                message = self._take()
                self._room.give_back(taken)
                self._size -= taken
                if not self._messages:
                    self._give_credit()
                yield message
            if self._whole:
                return
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def _take(self) -> Any:
        """Return the message whose turn it is. CallError."""
        return self._method.read(unpacked(self._messages.popleft(), self._request.encoding))
