"""Takes connections and calls, and stops in order."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from skybridge_server.api.wire import status
from skybridge_server.api.wire.calls import Call, Method
from skybridge_server.api.wire.requests import Request, parse
from skybridge_server.api.wire.room import Room
from skybridge_server.api.wire.status import CallError
from skybridge_server.http2.connection import Connection
from skybridge_server.http2.streams import Receiver, Stream

HANDSHAKE_SECONDS = 10.0
FAREWELL_SECONDS = 2.0
"""For callers to take the last answers and to leave."""

_CONTENT_TYPE = re.compile(rb"application/grpc(?![^+;])")
"""Not grpc-web, which is another protocol."""

_numbers = itertools.count(1)


@dataclass(slots=True)
class Counts:
    """Calls of a server; those that still run are in `started` alone."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0


class WireServer:
    """Serves methods, found by their paths, on any number of sockets."""

    def __init__(self, find: Callable[[str], Method | None]) -> None:
        self._find = find
        self._room = Room()
        self._calls: set[Call] = set()
        self._listeners: list[asyncio.Server] = []
        self._ended = asyncio.Event()
        self._stopping = False
        self.number = next(_numbers)
        self.sockets: list[socket.socket] = []
        self.connections: dict[Connection, int] = {}
        """Those that are open, and the number of each."""
        self.counts = Counts()

    async def listen(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        """Take connections on sockets that are bound, and close these at the stop."""
        loop = asyncio.get_running_loop()
        handshake = None if tls is None else HANDSHAKE_SECONDS
        self.sockets.extend(sockets)
        for each in sockets:
            make = loop.create_unix_server if each.family == socket.AF_UNIX else loop.create_server
            self._listeners.append(
                await make(
                    lambda: Connection(self),
                    sock=each,
                    ssl=tls,
                    ssl_handshake_timeout=handshake,
                    backlog=socket.SOMAXCONN,
                )
            )

    async def stop(self, grace: float) -> None:
        """Take no more calls, wait for those that run, and end those that take too long.

        A second call, with a shorter grace, hurries the first.
        """
        self._stop_listening()
        self._stopping = True
        for connection in list(self.connections):
            connection.drain()
        if not await self._without(lambda: self._calls, grace):
            for call in list(self._calls):
                call.cancel()
            await self._without(lambda: self._calls, None)
        if not await self._without(lambda: self.connections, FAREWELL_SECONDS):
            for connection in list(self.connections):
                connection.abort()

    def _stop_listening(self) -> None:
        for each in self.sockets:
            if each.family == socket.AF_UNIX:
                Path(each.getsockname()).unlink(missing_ok=True)
        self.sockets.clear()
        for listener in self._listeners:
            listener.close()

    async def _without(self, things: Callable[[], object], seconds: float | None) -> bool:
        """Wait until there are none; False: it took too long."""
        try:
            async with asyncio.timeout(seconds):
                while things():
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            return False
        return True

    # What connections call.

    parse = staticmethod(parse)

    def opened(self, connection: Connection) -> None:
        """Take note of a connection."""
        self.connections[connection] = next(_numbers)
        if self._stopping:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        """Take note that one is gone."""
        del self.connections[connection]
        self._ended.set()

    def accept(self, stream: Stream, request: Request) -> Receiver:
        """Begin a call, or answer that there is none."""
        method = self._find(request.path)
        if not _CONTENT_TYPE.match(request.content_type):
            stream.end(status.refusal(415, "the content type must be application/grpc"))
        elif method is None:
            error = CallError(grpc.StatusCode.UNIMPLEMENTED, f"there is no {request.path}")
            stream.end(status.INITIAL + status.trailers(error))
        else:
            call = Call(stream, request, method, self._room, self._end)
            self._calls.add(call)
            self.counts.started += 1
            return call
        return _Nobody()

    def _end(self, call: Call) -> None:
        self._calls.discard(call)
        if call.succeeded:
            self.counts.succeeded += 1
        else:
            self.counts.failed += 1
        if self._stopping:
            self._ended.set()


class _Nobody:
    """Takes what belongs to a call that was refused."""

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self) -> None: ...
