"""An HTTP/1.1 client: one request at a time over one connection that is kept alive.

It exists for speed and strictness: general clients cost ten to a hundred times as much, and guess
where this one refuses.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import cast

from skybridge_server.contracts.base import Connect
from skybridge_server.contracts.bodies import Body, body_of_response
from skybridge_server.contracts.delivery import Delivery
from skybridge_server.contracts.heads import END, ResponseHead, find_end, parse_response
from skybridge_server.contracts.outbox import Outbox
from skybridge_server.errors import InstanceGoneError, ProtocolError, SkybridgeError

_START = b"HTTP/1."
_SWITCHING_PROTOCOLS = 101
_FINAL = 200
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


async def open_connection(connect: Connect, outbox: Outbox) -> Connection:
    """Connect; OSError when nothing listens. `outbox`: what sends to that instance."""
    sock = await connect()
    try:
        if sock.family != socket.AF_UNIX:
            # Else the kernel holds back the end of a request for 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(sock, outbox), sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection


class Connection(asyncio.Protocol):
    """A connection into an instance."""

    def __init__(self, sock: socket.socket, outbox: Outbox) -> None:
        self._sock = sock
        self._outbox = outbox
        self._transport: asyncio.Transport
        self._request = b""
        """What is about to be sent."""
        self._received = b""
        self._head: ResponseHead
        self._body: Body | None = None
        self._delivery: Delivery | None = None
        self._lost = asyncio.Event()
        self.idle_since = asyncio.get_running_loop().time()
        """When the last answer ended, on the event loop's clock."""
        self.proven = False
        """Whether the other side has kept it open after an answer."""
        self.closed = False
        """Whether it carries nothing any more: either side has ended it."""

    def send(self, request: bytes, body: bytes) -> Delivery:
        """Send a request, and return what the body of its answer comes by.

        That ends with InstanceGoneError or ProtocolError, or is followed by `finish`; an answer
        that nobody waits for any more, by `abort`.
        """
        self._body = None
        self._delivery = Delivery()
        self._request = request + body
        self._outbox.send(self._send)
        return self._delivery

    def finish(self) -> ResponseHead:
        """Return the head of an answer that has come; closes what cannot be kept alive."""
        self._delivery = None
        self.idle_since = asyncio.get_running_loop().time()
        # An answer to a request that was only half read makes the next one a guess.
        if not self._head.framing.keep_alive or self._transport.get_write_buffer_size():
            self.abort()
        return self._head

    def still_idle(self) -> bool:
        """Whether the other side neither closed nor said anything since the last answer.

        What the event loop has not seen yet counts too.
        """
        if self.closed:
            return False
        try:
            self._sock.recv(1, _LOOK)
        except BlockingIOError:
            self.proven = True
            return True
        except OSError:
            return False
        return False

    def abort(self) -> None:
        self.closed = True
        self._request = b""
        self._transport.abort()

    async def close(self) -> None:
        self.abort()
        await self._lost.wait()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._delivery is None or self._request:
            # Nobody asked yet, and what it says could be taken for the answer to the next request.
            self.abort()
            self._end(InstanceGoneError("the instance answered what it was not asked"))
            return
        try:
            self._take(data, self._delivery)
        except SkybridgeError as error:
            self._end(error)

    def eof_received(self) -> None:
        if self._body is None:
            self._end(InstanceGoneError("the connection ended before the head of the answer did"))
            return
        try:
            self._body.end()
        except InstanceGoneError as error:
            self._end(error)
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(InstanceGoneError(f"the connection broke: {exc or 'it was closed'}"))
        self._lost.set()

    def _send(self) -> None:
        request, self._request = self._request, b""
        if request and not self._transport.is_closing():
            self._transport.write(request)

    def _end(self, error: SkybridgeError | None = None) -> None:
        self.closed = True
        self._request = b""
        if self._delivery is not None:
            self._delivery.finish(error)

    def _take(self, data: bytes, delivery: Delivery) -> None:
        if self._body is None:
            data = self._take_head(data)
        if self._body is None:
            self._acknowledge()
            return
        if data:
            payload, rest = self._body.feed(data)
            if payload:
                delivery.add(payload, self._transport)
            if rest:
                raise ProtocolError(f"{len(rest)} bytes after the end of the answer")
        if self._body.done:
            delivery.finish()
        else:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Tell the instance at once what has come.

        One that writes an answer in pieces, and lets its kernel wait for that before it sends the
        next, would go on only after 40 ms.
        """
        if self._sock.family != socket.AF_UNIX:
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _take_head(self, data: bytes) -> bytes:
        """Take bytes of heads; return those of the body, once the last head is there."""
        known = max(0, len(self._received) - len(END) + 1)
        data = self._received + data
        while (end := find_end(data, known, _START)) >= 0:
            head = parse_response(data[:end])
            data, known = data[end + len(END) :], 0
            if head.status >= _FINAL:
                self._head, self._received = head, b""
                self._body = body_of_response(head.status, head.framing)
                return data
            if head.status == _SWITCHING_PROTOCOLS:
                raise ProtocolError("101 Switching Protocols, and nobody asked for it")
        self._received = data
        return b""
