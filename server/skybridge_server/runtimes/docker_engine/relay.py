"""The other way to the ports of a container: the program of its sandbox carries the connections.

It takes no rights, and works wherever the engine is, since all goes over the attachment to the
sandbox. Who connects gets one of a pair of sockets.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from collections.abc import Callable

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine.ports import Accepted
from skybridge_server.runtimes.docker_engine.relay_frames import Frame, Kind, word
from skybridge_server.runtimes.docker_engine.relayed import RelayedConnection


class Relay:
    """Reaches ports through the program of a sandbox, to which `send` takes frames."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._numbers = itertools.cycle(range(1, 1 << 31))  # the rest is the program's to give
        self._opening: dict[int, asyncio.Future[None]] = {}
        self._connections: dict[int, RelayedConnection] = {}
        self._accepting: dict[int, Accepted] = {}  # by port
        self._lost = False

    async def connect(self, port: int) -> socket.socket:
        connection, made = await self._pair(next(self._numbers))
        try:
            await self._open(connection.number, Kind.CONNECT, port)
        except BaseException:
            made.close()
            connection.lose()
            raise
        return made

    async def listen(self, port: int, accepted: Accepted) -> RelayListener:
        if port in self._accepting:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        number = next(self._numbers)
        listener = RelayListener(lambda: self._stop_listening(number, port))
        self._accepting[port] = accepted  # before the first can come
        try:
            await self._open(number, Kind.LISTEN, port)
        except BaseException:
            listener.close()
            raise
        return listener

    def close(self) -> None:
        """Let go of all connections."""
        self._lost = True
        for opening in self._opening.values():
            if not opening.done():
                opening.set_exception(_broken())
        for connection in [*self._connections.values()]:
            connection.lose()

    # What the sandbox calls.

    async def take(self, frame: Frame) -> None:
        """Do what the program says; what it says of what is over means nothing."""
        if frame.kind is Kind.ACCEPTED:
            await self._accept(frame.connection, port=frame.value)
        elif frame.kind in {Kind.OPENED, Kind.FAILED}:
            self._answer(frame)
        elif connection := self._connections.get(frame.connection):
            connection.take(frame)

    # How connections are made.

    async def _open(self, number: int, kind: Kind, port: int) -> None:
        if self._lost:
            raise _broken()
        opening = self._opening[number] = asyncio.get_running_loop().create_future()
        self._send(word(number, kind, port))
        try:
            await opening
        except asyncio.CancelledError:
            self._send(word(number, Kind.CLOSE))
            raise
        finally:
            del self._opening[number]

    def _answer(self, frame: Frame) -> None:
        opening = self._opening.get(frame.connection)
        if opening is None or opening.done():
            return  # it was cancelled
        if frame.kind is Kind.OPENED:
            opening.set_result(None)
        else:
            opening.set_exception(OSError(frame.value, os.strerror(frame.value)))

    async def _accept(self, number: int, port: int) -> None:
        accepted = self._accepting.get(port)
        if accepted is None:  # it is listened on no more
            self._send(word(number, Kind.CLOSE))
        else:
            _, made = await self._pair(number)
            accepted(made)

    async def _pair(self, number: int) -> tuple[RelayedConnection, socket.socket]:
        """Make a connection, and the socket for who uses it."""
        made, carried = socket.socketpair()
        made.setblocking(False)
        carried.setblocking(False)
        connection = RelayedConnection(number, self._send, self._connections.pop)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, sock=carried)
        except BaseException:
            made.close()
            carried.close()
            raise
        self._connections[number] = connection
        return connection, made

    def _stop_listening(self, number: int, port: int) -> None:
        del self._accepting[port]
        self._send(word(number, Kind.CLOSE))


class RelayListener:
    """Accepts until it is closed."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stop()


def _broken() -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        "the container's ports cannot be reached any more: its sandbox has ended"
    )
