"""An HTTP/1.1 server for an instance that calls us: one request at a time on each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, cast

from skybridge_server.contracts.bodies import ChunkedBody, LengthBody, body_of_request
from skybridge_server.contracts.heads import END, RequestHead, find_end, parse_request
from skybridge_server.errors import InstanceError, InstanceGoneError, ProtocolError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Upload(Protocol):
    """Takes the body of one request."""

    def add(self, data: bytes, source: asyncio.ReadTransport) -> None:
        """Take a piece; `source` may be paused for as long as no more is wanted."""
        ...

    def finish(self, trailers: Mapping[str, str]) -> None:
        """Take the end. From now on the request waits for its response."""
        ...

    def fail(self, error: InstanceError) -> None:
        """Learn that the rest will not come; only the first error counts."""
        ...


class Requests(Protocol):
    """Takes the requests of all connections of an instance."""

    def connected(self, connection: ServerConnection) -> None: ...

    def requested(self, connection: ServerConnection, head: RequestHead) -> Upload:
        """Return what takes the body of a request."""
        ...

    def broken(self, error: ProtocolError) -> None:
        """Learn that the instance does not speak HTTP/1.1; the connection is closed."""
        ...

    def lost(self, connection: ServerConnection) -> None: ...


class ServerConnection(asyncio.Protocol):
    """A connection that the instance made."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._transport: asyncio.Transport
        self._received = b""
        self._head: RequestHead | None = None
        self._body: LengthBody | ChunkedBody
        self._upload: Upload | None = None
        self._lost = asyncio.Event()

    def respond(self, response: bytes) -> None:
        """Send the response to the request whose body has ended."""
        keep_alive = self._head is not None and self._head.framing.keep_alive
        self._head = None
        self._transport.write(response)
        if not keep_alive:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    async def close(self) -> None:
        self.abort()
        await self._lost.wait()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._requests.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except ProtocolError as error:
            self._transport.abort()
            if self._upload is not None:
                self._upload.fail(error)
            self._requests.broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upload is not None:
            reason = f": {exc}" if exc else ""
            self._upload.fail(InstanceGoneError(f"the connection ended inside a request{reason}"))
        self._requests.lost(self)
        self._lost.set()

    def _take(self, data: bytes) -> None:
        if self._head is None:
            data = self._take_head(data)
        if self._upload is not None:
            data = self._take_body(data, self._upload)
        if data:
            raise ProtocolError(f"{len(data)} bytes after a request that is not answered yet")

    def _take_head(self, data: bytes) -> bytes:
        known = max(0, len(self._received) - len(END) + 1)
        data, self._received = self._received + data, b""
        end = find_end(data, known, b"")
        if end < 0:
            self._received = data
            return b""
        self._head = head = parse_request(data[:end])
        self._body = body_of_request(head.framing)
        self._upload = self._requests.requested(self, head)
        if head.fields.get("expect", "").lower() == "100-continue" and not self._body.done:
            self._transport.write(_CONTINUE)
        return data[end + len(END) :]

    def _take_body(self, data: bytes, upload: Upload) -> bytes:
        payload, rest = self._body.feed(data)
        if payload:
            upload.add(payload, self._transport)
        if self._body.done:
            self._upload = None
            trailers = self._body.trailers if isinstance(self._body, ChunkedBody) else {}
            upload.finish(trailers)
        return rest
