"""A connection: takes frames apart and hands them to their streams, and writes those of ours."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import structlog

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import BadConnectionError, BadStreamError, ErrorCode
from skybridge_server.http2.frames import Setting
from skybridge_server.http2.headers import (
    DEFAULT_TABLE_BYTES,
    MAX_HEADERS_BYTES,
    NO_TABLE,
    HeaderReader,
    Headers,
)
from skybridge_server.http2.keepalive import Keepalive
from skybridge_server.http2.reader import Frame, FrameReader
from skybridge_server.http2.streams import WINDOW, Receiver, Stream

CONNECTION_WINDOW = 16 * 1024 * 1024
"""Bytes on the way on all streams together; each has its own window for those that wait."""

MAX_STREAMS = 16_384
"""At the same time, with those whose caller is gone and which have not ended yet."""

ALPN = "h2"
"""What callers say in the handshake of TLS that they speak."""

DEFAULT_WINDOW = 65_535
PREFACE_SECONDS = 10.0
LINGER_SECONDS = 1.0
MAX_UNREAD = 4 * 1024 * 1024
"""Bytes of headers and answers to frames that may wait for a peer that does not read."""
_MOST = 65_536
_BUFFERED = 256 * 1024

_OPENING = frames.settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: WINDOW,
        Setting.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
    }
) + frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)

log = structlog.get_logger()


class Server(Protocol):
    """What connections lead to."""

    def parse(self, headers: Headers) -> Any:
        """Return what `accept` is to get; equal headers may be parsed once. BadStreamError."""
        ...

    def accept(self, stream: Stream, request: Any) -> Receiver:
        """Begin with a request. BadStreamError."""
        ...

    def opened(self, connection: Connection) -> None:
        """Take note of a connection."""
        ...

    def closed(self, connection: Connection) -> None:
        """Take note that one is gone, which was opened."""
        ...


class Connection(asyncio.Protocol):
    """One connection of a caller. For the event loop alone."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._headers = HeaderReader(server.parse)
        self._reader = FrameReader()
        self._takers = {
            frames.DATA: self._take_data,
            frames.HEADERS: self._take_headers,
            frames.PRIORITY: self._take_priority,
            frames.RST_STREAM: self._take_rst_stream,
            frames.SETTINGS: self._take_settings,
            frames.PUSH_PROMISE: self._take_push_promise,
            frames.PING: self._take_ping,
            frames.GOAWAY: self._take_goaway,
            frames.WINDOW_UPDATE: self._take_window_update,
        }
        self._ending = False
        self._left = False
        self._last_id = 0
        self._streams: dict[int, Stream] = {}
        self._owed = 0
        self._window = DEFAULT_WINDOW
        self._paused = False
        self.initial_window = DEFAULT_WINDOW
        """Bytes of body that the peer takes on each stream, before it says more."""
        self._most = frames.MIN_FRAME_BYTES
        """Bytes of a frame that the peer takes."""
        self._before_headers = b""
        self._responses: list[bytes] = []
        """Those of this round of the event loop: each write is a packet, and wakes the peer."""
        self._responses_size = 0
        self._sending: asyncio.Handle | None = None
        """What writes them soon."""
        self.blocked: set[Stream] = set()
        """Those that wait for room."""
        self.unreleased = 0
        """How many streams are worked on, also for a caller who is gone."""
        self.opened = 0
        """How many streams there have been."""
        self.answered = 0
        """How many of these got their whole response."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFERED)
        self._loop = asyncio.get_running_loop()
        self._keepalive = Keepalive(self._loop, self.write, self.abort)
        self._patience = self._loop.call_later(PREFACE_SECONDS, self.abort)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != ALPN:
            self.abort()
        self.write(_OPENING)
        self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Tell those who wait."""
        self._left = True
        self._patience.cancel()
        self._keepalive.close()
        for stream in list(self._streams.values()):
            stream.lose()
        self._server.closed(self)

    def pause_writing(self) -> None:
        """Let responses wait: the peer does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Let responses go on."""
        self._paused = False
        self._wake()

    def eof_received(self) -> None:
        """Close: a peer that sends nothing more cannot take responses either."""

    def data_received(self, data: bytes) -> None:
        """Take apart what has come."""
        if self._left:
            return
        self._keepalive.heard()
        try:
            for frame in self._reader.read(data):
                self._take(frame)
        except BadConnectionError as error:
            self._fail(error)
        if self._reader.began and not self._left:
            self._patience.cancel()

    # What streams call.

    def write(self, data: bytes) -> None:
        """Write frames, except those of DATA; who asks and never reads is cut off."""
        if self._left:
            return
        self._put(data)
        if self._paused and self.transport.get_write_buffer_size() > MAX_UNREAD:
            log.debug("connection cut", detail="answers are not read")
            self.abort()

    def room(self, stream: Stream, wanted: int) -> int:
        """Return how much a frame of DATA may carry now."""
        if self._paused:
            return 0
        window = self.initial_window + stream.widened
        return max(0, min(wanted, window, self._window, self._most))

    def write_headers(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """Write a block of headers."""
        self._keepalive.sent()
        self.write(frames.headers(stream.id, self._before_headers + block, self._most, end=end))

    def write_data(self, stream: Stream, data: memoryview) -> None:
        """Write a frame of DATA, for which there is room."""
        size = len(data)
        self._window -= size
        stream.widened -= size
        self._keepalive.sent()
        self._put(b"".join((frames.head(frames.DATA, 0, stream.id, size), data)))

    def write_response(self, stream: Stream, headers: bytes, data: bytes, trailers: bytes) -> None:
        """Write a whole response, for whose body there is room."""
        size, id_, head = len(data), stream.id, frames.head
        headers = self._before_headers + headers
        self._window -= size
        self._keepalive.sent()
        response = b"".join(
            (
                head(frames.HEADERS, frames.END_HEADERS, id_, len(headers)),
                headers,
                head(frames.DATA, 0, id_, size),
                data,
                frames.headers(id_, trailers, self._most, end=True),
            )
        )
        self._responses.append(response)
        self._responses_size += len(response)
        if len(self._streams) == 1 or self._responses_size > _BUFFERED:
            self._send_responses()  # there is nothing to wait for, or enough
        elif self._sending is None:
            self._sending = self._loop.call_soon(self._send_responses)

    def forget(self, stream: Stream, *, whole: bool) -> None:
        """Drop a stream that is closed; `whole`: its response was sent to the end."""
        self.answered += whole
        self._streams.pop(stream.id, None)
        if self._ending and not self._streams and not self._left:
            self._leave()

    # What the server calls.

    def drain(self) -> None:
        """Take no more streams, and close once those that are open have ended."""
        if not self._ending:
            self._ending = True
            self.write(frames.goaway(self._last_id, ErrorCode.NO_ERROR))
            if not self._streams:
                self._leave()

    def abort(self) -> None:
        """Close at once."""
        self._ending = self._left = self._paused = True  # nothing more is taken or written
        self.transport.abort()

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    @property
    def ends(self) -> tuple[Any, Any]:
        """The addresses of this end and of the peer's, as sockets tell them."""
        tell = self.transport.get_extra_info
        return tell("sockname"), tell("peername")

    # Frames.

    def _take(self, frame: Frame) -> None:
        """Do what a frame asks; nothing, if it is of a kind of later days. BadConnectionError."""
        take = self._takers.get(frame.kind)
        try:
            if take is not None:
                take(frame)
        except BadStreamError as error:
            self._refuse(frame.stream, error)

    def _take_data(self, frame: Frame) -> None:
        self._owed += frame.size
        if self._owed * 2 >= CONNECTION_WINDOW:
            self.write(frames.window_update(0, self._owed))
            self._owed = 0
        stream = self._open_stream(frame.stream)
        if stream is not None:
            stream.take(frame.payload, frame.size, end=bool(frame.flags & frames.END_STREAM))

    def _take_headers(self, frame: Frame) -> None:
        id_, end = frame.stream, bool(frame.flags & frames.END_STREAM)
        if id_ % 2 == 0:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream that is not the client's")
        if id_ <= self._last_id or self._ending:
            # Also what is not wanted has to be decoded: what follows may refer to it.
            self._headers.decode(frame.payload)
            stream = self._streams.get(id_)
            if stream is not None and not end:
                raise BadStreamError(ErrorCode.PROTOCOL_ERROR, "trailers that are not the end")
            if stream is not None:
                stream.take_end()
            return
        self._last_id = id_
        request = self._headers.read(frame.payload)
        if self.unreleased >= MAX_STREAMS:
            raise BadStreamError(ErrorCode.REFUSED_STREAM, f"more than {MAX_STREAMS} streams")
        stream = Stream(self, id_, ended=end)
        stream.receiver = self._server.accept(stream, request)
        self.opened += 1
        if stream.closed:
            return  # answered already: there is no such method, for example
        self._streams[id_] = stream
        self.unreleased += 1
        if end:
            stream.receiver.end()

    def _take_priority(self, frame: Frame) -> None:
        if frame.size != 5 or not frame.stream:
            raise _wrong_size("PRIORITY has 5 bytes, and a stream")

    def _take_rst_stream(self, frame: Frame) -> None:
        if frame.size != 4:
            raise _wrong_size("RST_STREAM has 4 bytes")
        stream = self._open_stream(frame.stream)
        if stream is not None:
            stream.lose()

    def _take_settings(self, frame: Frame) -> None:
        _check_no_stream(frame)
        if frame.size % 6 or (frame.flags & frames.ACK and frame.size):
            raise _wrong_size("SETTINGS has 6 bytes for each, and none with ACK")
        if frame.flags & frames.ACK:
            return
        for key, value in frames.settings_of(frame.payload):
            self._set(key, value)
        self.write(frames.SETTINGS_ACK)
        self._wake()

    def _set(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise BadConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
            self.initial_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not frames.MIN_FRAME_BYTES <= value < 1 << 24:
                raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
            self._most = min(value, _MOST)
        elif key == Setting.HEADER_TABLE_SIZE and value < DEFAULT_TABLE_BYTES:
            self._before_headers = NO_TABLE
        elif key == Setting.ENABLE_PUSH and value > 1:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")

    def _take_push_promise(self, _: Frame) -> None:
        raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "clients promise nothing")

    def _take_goaway(self, frame: Frame) -> None:
        _check_no_stream(frame)
        if frame.size < 8:
            raise _wrong_size("GOAWAY has 8 bytes or more")

    def _take_ping(self, frame: Frame) -> None:
        _check_no_stream(frame)
        if frame.size != 8:
            raise _wrong_size("PING has 8 bytes")
        if not frame.flags & frames.ACK:
            self._keepalive.pinged()
            self.write(frames.ping(frame.payload, ack=True))

    def _take_window_update(self, frame: Frame) -> None:
        if frame.size != 4:
            raise _wrong_size("WINDOW_UPDATE has 4 bytes")
        more = int.from_bytes(frame.payload, "big") & frames.MAX_WINDOW
        if frame.stream:
            stream = self._open_stream(frame.stream)
            if stream is not None and not more:
                raise BadStreamError(ErrorCode.PROTOCOL_ERROR, "a window wider by nothing")
            if stream is not None:
                stream.widen(more)
            return
        if not more:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "a window wider by nothing")
        self._window += more
        if self._window > frames.MAX_WINDOW:
            raise BadConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a window above 2^31-1")
        self._wake()

    def _open_stream(self, id_: int) -> Stream | None:
        """Return a stream; None: it is closed. BadConnectionError: there never was one."""
        stream = self._streams.get(id_)
        if stream is None and (id_ > self._last_id or id_ % 2 == 0) and not self._ending:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, f"stream {id_} is not open")
        return stream

    def _refuse(self, id_: int, error: BadStreamError) -> None:
        log.debug("stream reset", code=error.code.name, detail=error.reason)
        stream = self._streams.get(id_)
        self.write(frames.rst_stream(id_, error.code))
        if stream is not None:
            stream.lose()

    def _put(self, data: bytes) -> None:
        """Write behind the responses that are about to be written."""
        if self._responses:
            self._send_responses()
        self.transport.write(data)

    def _send_responses(self) -> None:
        if self._responses and not self._left:
            self.transport.write(b"".join(self._responses))
        self._responses = []
        self._responses_size = 0
        self._sending = None

    def _wake(self) -> None:
        for stream in self.blocked:
            if self.room(stream, 1):
                stream.wake()

    def _fail(self, error: BadConnectionError) -> None:
        log.debug("connection ended", code=error.code.name, detail=error.reason)
        self._ending = True
        self.write(frames.goaway(self._last_id, error.code, error.reason))
        self._leave()
        for stream in list(self._streams.values()):
            stream.lose()

    def _leave(self) -> None:
        """Close once the peer has had the time to read: to close on unread data would lose ours."""
        self._send_responses()
        self._left = True
        self._patience.cancel()
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        try:
            self.transport.write_eof()
        except OSError:  # it left first
            self.transport.abort()
        else:
            self._patience = self._loop.call_later(LINGER_SECONDS, self.abort)


def _check_no_stream(frame: Frame) -> None:
    if frame.stream:
        raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream where none belongs")


def _wrong_size(rule: str) -> BadConnectionError:
    return BadConnectionError(ErrorCode.FRAME_SIZE_ERROR, rule)
