"""The loopback of a fake container: connections are pairs of sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

Accepted = Callable[[socket.socket], object]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeListener:
    """A port of a fake network that is listened on."""

    def __init__(self, ports: dict[int, Accepted], port: int) -> None:
        self._ports = ports
        self._port = port

    def close(self) -> None:
        self._ports.pop(self._port, None)


class FakeNetwork:
    """Ports, and the connections to and from the program inside."""

    def __init__(self) -> None:
        self._ports: dict[int, Accepted] = {}
        self._inside: list[socket.socket] = []
        self._handling: set[asyncio.Task[None]] = set()

    # What a runtime calls.

    def connect(self, port: int) -> socket.socket:
        """Connect to what the program listens on."""
        accepted = self._look_up(port)
        outside, inside = self._pair()
        accepted(inside)
        return outside

    def listen(self, port: int, accepted: Accepted) -> FakeListener:
        """Listen, from inside or outside."""
        if port in self._ports:
            raise OSError(errno.EADDRINUSE, "address already in use")
        self._ports[port] = accepted
        return FakeListener(self._ports, port)

    def end(self) -> None:
        """End what the program held."""
        self._ports.clear()
        for task in self._handling:
            task.cancel()
        for connection in self._inside:
            with suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)

    # What a program calls.

    def dial(self, port: int) -> socket.socket:
        """Connect from inside to what is listened on from outside."""
        accepted = self._look_up(port)
        outside, inside = self._pair()
        accepted(outside)
        return inside

    def serve(self, port: int, handler: Handler) -> None:
        """Handle each connection to a port in a task of its own, and close it then."""

        async def handle(connection: socket.socket) -> None:
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass  # the other side, or the container, has ended
            finally:
                writer.close()

        def accept(connection: socket.socket) -> None:
            task = asyncio.create_task(handle(connection))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

        self.listen(port, accept)

    def _look_up(self, port: int) -> Accepted:
        if port not in self._ports:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return self._ports[port]

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        outside, inside = socket.socketpair()
        outside.setblocking(False)
        inside.setblocking(False)
        self._inside.append(inside)
        return outside, inside
