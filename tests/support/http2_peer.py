"""A client of HTTP/2 made of another implementation, which checks every frame that it gets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.settings import SettingCodes, Settings

from tests.support.waiting import PATIENCE

Pairs = list[tuple[str, str]]


def message(data: bytes, *, packed: bool = False) -> bytes:
    """Return a message of gRPC as it is on the wire."""
    return struct.pack(">BL", packed, len(data)) + data


def call_headers(path: str, *more: tuple[str, str]) -> Pairs:
    """Return the headers of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


@dataclass
class Answer:
    """What has come on a stream."""

    headers: Pairs = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Pairs = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    """The code with which the server broke off."""

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int:
        """The status of the call; without a body it stands in the only headers."""
        return int(dict(self.trailers or self.headers)["grpc-status"])

    @property
    def detail(self) -> str:
        return dict(self.trailers or self.headers)["grpc-message"]

    @property
    def messages(self) -> list[bytes]:
        """The messages that are complete."""
        found, at = [], 0
        while at + 5 <= len(self.body):
            begin = at + 5
            at = begin + int.from_bytes(self.body[at + 1 : begin], "big")
            if at <= len(self.body):
                found.append(bytes(self.body[begin:at]))
        return found


class Peer:
    """One connection. Nothing is read but while a method waits."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settings: dict[SettingCodes, int],
        *,
        checks: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=checks,
                normalize_outbound_headers=checks,
            )
        )
        self.h2.local_settings = Settings(initial_values={SettingCodes.ENABLE_PUSH: 0, **settings})
        self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        self.credits = True
        """Whether what comes is credited at once."""
        self.answers: dict[int, Answer] = {}
        self.goaway: events.ConnectionTerminated | None = None
        self.closed = False

    async def greet(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.write(self.h2.data_to_send())

    async def write(self, data: bytes) -> None:
        """Write bytes of which the other implementation knows nothing."""
        self._writer.write(data)
        with suppress(ConnectionError):  # which reading tells as well
            await self._writer.drain()

    def vanish(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()

    # Calls.

    def open(self, path: str, *more: tuple[str, str], end: bool = False) -> int:
        """Write headers with the next flush; return the stream."""
        return self.open_with(call_headers(path, *more), end=end)

    def open_with(self, headers: Iterable[tuple[str, str]], *, end: bool = False) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end)
        self.answers[stream] = Answer()
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a body as far as the server's windows allow, and wait for these."""
        at = 0
        while at < len(data):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room:
                self.h2.send_data(stream, data[at : at + room])
                at += room
                await self.flush()
            else:
                await self.receive()
        if end:
            self.h2.end_stream(stream)
            await self.flush()

    async def call(self, path: str, body: bytes, *more: tuple[str, str]) -> Answer:
        """Send one message, and return the whole answer."""
        stream = self.open(path, *more)
        await self.send(stream, message(body), end=True)
        return await self.answer(stream)

    async def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream."""
        answer = self.answers[stream]
        await self.until(lambda: answer.over)
        return answer

    # Reading.

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert not self.closed, "the server has closed the connection"
                await self.receive()

    async def until_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.closed:
                await self.receive()

    async def receive(self) -> None:
        """Wait for some bytes, and take note of what they say."""
        try:
            data = await self._reader.read(65_536)
        except ConnectionError:
            data = b""
        self.closed = not data
        for event in self.h2.receive_data(data):
            self._take(event)
        if not self.closed:
            await self.flush()

    def _take(self, event: Any) -> None:
        if isinstance(event, events.ConnectionTerminated):
            self.goaway = event
            # It would take no more frames, and those of calls that still run are to come.
            self.h2.state_machine.state = ConnectionState.CLIENT_OPEN
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0)
        if answer is not None:
            self._note(answer, event)

    def _note(self, answer: Answer, event: Any) -> None:
        match event:
            case events.ResponseReceived(headers=headers):
                answer.headers = _pairs(headers)
            case events.DataReceived():
                answer.body += event.data
                self._credit(event.flow_controlled_length, event.stream_id)
            case events.TrailersReceived(headers=headers):
                answer.trailers = _pairs(headers)
            case events.StreamEnded():
                answer.ended = True
            case events.StreamReset():
                answer.reset = event.error_code

    def _credit(self, size: int, stream: int) -> None:
        if self.credits and size:
            self.h2.acknowledge_received_data(size, stream)


def _pairs(headers: Any) -> Pairs:
    return [(name, value) for name, value in headers]


@asynccontextmanager
async def peer(
    port: int,
    settings: dict[SettingCodes, int] | None = None,
    *,
    checks: bool = True,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[Peer, None]:
    """Connect to a port of loopback. `checks`: whether it sends only what is right."""
    line = socket.socket()
    # The same on every machine, so that who does not read is soon noticed.
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", port))
    name = "127.0.0.1" if tls else None
    reader, writer = await asyncio.open_connection(sock=line, ssl=tls, server_hostname=name)
    one = Peer(reader, writer, settings or {}, checks=checks)
    try:
        await one.greet()
        yield one
    finally:
        writer.transport.abort()
