"""Connections whose peer leaves, is slow, or never reads, on a transport in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import hpack
import hyperframe.frame as theirs
import pytest

from skybridge_server.http2 import connection as module
from skybridge_server.http2 import frames
from skybridge_server.http2.connection import MAX_UNREAD, Connection
from skybridge_server.http2.errors import BadStreamError, ErrorCode
from skybridge_server.http2.frames import Setting
from skybridge_server.http2.headers import Headers, block
from skybridge_server.http2.streams import WINDOW, Receiver, Stream, StreamClosedError

GREETING = frames.PREFACE + frames.settings({})
BODY = bytes(100)


class Transport(asyncio.Transport):
    """Keeps what is written, until the peer reads."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._high = 0
        self.unread = bytearray()
        self.writes = 0
        self.half_closed = False
        self.over = asyncio.Event()
        connection.connection_made(self)

    @property
    def closed(self) -> bool:
        return self.over.is_set()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self._high = high

    def write(self, data: Any) -> None:
        self.writes += 1
        assert not self.closed
        self.unread += data
        if len(self.unread) > self._high:
            self._connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.unread)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def abort(self) -> None:
        if not self.closed:
            self.over.set()
            self._connection.connection_lost(None)

    def read(self) -> list[theirs.Frame]:
        """Return the frames that were written, as a peer that reads again."""
        found, view = [], memoryview(bytes(self.unread))
        self.unread.clear()
        self._connection.resume_writing()
        while view:
            frame, length = theirs.Frame.parse_frame_header(view[:9])
            frame.parse_body(view[9 : 9 + length])
            found.append(frame)
            view = view[9 + length :]
        return found


class Sink:
    """A request that nobody reads."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_lost = False
        self.ended = False

    def data(self, data: bytes) -> None: ...

    def end(self) -> None:
        self.ended = True

    def lost(self) -> None:
        self.is_lost = True


class Server:
    """Takes every request, or answers it at once."""

    def __init__(self) -> None:
        self.requests: list[Sink] = []
        self.stopping = False
        self.answers = False
        self.connections: set[Connection] = set()

    def parse(self, headers: Headers) -> Headers:
        if (b"bad", b"") in headers:
            raise BadStreamError(ErrorCode.PROTOCOL_ERROR, "bad")
        return headers

    def accept(self, stream: Stream, request: Headers) -> Receiver:
        if self.answers:
            stream.end(block([(b":status", b"200"), (b"text", b"x" * 1_000)]))
        sink = Sink(stream)
        self.requests.append(sink)
        return sink

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self.stopping:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        self.connections.remove(connection)


class Peer:
    """The other end, which writes frames by hand."""

    def __init__(self, server: Server | None = None) -> None:
        self.server = server or Server()
        self.connection = Connection(self.server)
        self.transport = Transport(self.connection)
        self._encoder = hpack.Encoder()

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def greet(self) -> Peer:
        self.send(GREETING)
        self.transport.read()
        return self

    def request(self, stream: int, *, end: bool = True, **headers: str) -> Sink:
        written = self._encoder.encode([("path", "/"), *headers.items()])
        self.send(frames.headers(stream, written, frames.MIN_FRAME_BYTES, end=end))
        return self.server.requests[-1]

    def kinds(self) -> list[str]:
        return [type(frame).__name__.removesuffix("Frame") for frame in self.transport.read()]

    @property
    def code(self) -> ErrorCode:
        """Why the connection has ended."""
        goaway = next(f for f in self.transport.read() if isinstance(f, theirs.GoAwayFrame))
        return ErrorCode(goaway.error_code)


async def seconds_to_the_end(peer: Peer) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await peer.transport.over.wait()
    return loop.time() - began


async def test_who_says_nothing_is_cut_off() -> None:
    for said in (b"", frames.PREFACE[:10]):
        peer = Peer()
        peer.send(said)
        assert await seconds_to_the_end(peer) == pytest.approx(module.PREFACE_SECONDS)
        assert not peer.server.connections


async def test_who_greets_has_as_long_as_he_answers() -> None:
    peer = Peer().greet()
    await asyncio.sleep(2 * module.PREFACE_SECONDS)
    assert not peer.transport.closed
    assert await seconds_to_the_end(peer) > 30  # no answer to our PING


async def test_who_does_not_leave_after_his_mistake_is_cut_off() -> None:
    peer = Peer().greet()
    sink = peer.request(1)
    peer.send(frames.head(frames.PUSH_PROMISE, 0, 1, 0))
    assert peer.code is ErrorCode.PROTOCOL_ERROR
    assert peer.transport.half_closed
    assert sink.is_lost
    assert await seconds_to_the_end(peer) == pytest.approx(module.LINGER_SECONDS)


async def test_who_does_not_leave_after_the_last_answer_is_cut_off() -> None:
    peer = Peer().greet()
    sink = peer.request(1)
    peer.connection.drain()
    before = peer.transport.half_closed
    sink.stream.end(block([(b":status", b"200")]))
    assert (before, peer.transport.half_closed) == (False, True)
    assert await seconds_to_the_end(peer) == pytest.approx(module.LINGER_SECONDS)


async def test_a_server_that_stops_greets_before_it_says_so() -> None:
    server = Server()
    server.stopping = True
    assert Peer(server).kinds() == ["Settings", "WindowUpdate", "GoAway"]


async def test_the_last_stream_is_told_and_later_ones_are_ignored() -> None:
    peer = Peer().greet()
    first = peer.request(1)
    peer.connection.drain()
    peer.request(3, end=False)
    peer.send(frames.head(frames.DATA, 1, 3, 5) + bytes(5) + frames.window_update(3, 9))
    peer.send(frames.rst_stream(3, ErrorCode.CANCEL))
    assert peer.server.requests == [first]
    (goaway,) = peer.transport.read()
    assert isinstance(goaway, theirs.GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (1, 0)
    assert not first.is_lost
    peer.transport.abort()


async def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    server = Server()
    server.answers = True
    peer = Peer(server).greet()
    for number in range(1, 20_000, 2):
        if peer.transport.closed:
            break
        peer.request(number)
    assert peer.transport.closed
    assert len(peer.transport.unread) < MAX_UNREAD + 2_000


async def test_pings_between_answers_are_fine() -> None:
    """As Go sends one with each call that it breaks off."""
    server = Server()
    server.answers = True
    peer = Peer(server).greet()
    for number in range(1, 100, 2):
        peer.request(number)
        peer.send(frames.ping(bytes(8)))
    assert "GoAway" not in peer.kinds()
    peer.transport.abort()


async def test_nothing_follows_an_answer_to_a_whole_request() -> None:
    server = Server()
    server.answers = True
    peer = Peer(server).greet()
    peer.request(1)
    assert peer.kinds() == ["Headers"]
    peer.request(3, end=False)
    assert peer.kinds() == ["Headers", "RstStream"]
    peer.transport.abort()


async def test_streams_that_nobody_wants_count_until_nothing_works_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 3)
    peer = Peer().greet()
    for number in (1, 3, 5):
        sink = peer.request(number)
        peer.send(frames.rst_stream(number, ErrorCode.CANCEL))
    assert (peer.connection.streams, sink.is_lost) == (0, True)
    assert peer.request(7) is sink
    (refused,) = peer.transport.read()
    assert isinstance(refused, theirs.RstStreamFrame)
    assert (refused.stream_id, refused.error_code) == (7, ErrorCode.REFUSED_STREAM)
    sink.stream.release()
    assert peer.request(9) is not sink
    peer.transport.abort()


async def test_what_we_reset_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    peer = Peer().greet()
    sink = peer.request(1)
    peer.send(frames.window_update(1, 0))  # makes us reset it
    assert sink.is_lost
    assert peer.request(3) is sink
    assert peer.kinds() == ["RstStream", "RstStream"]
    peer.transport.abort()


async def test_windows_may_become_negative() -> None:
    peer = Peer().greet()
    stream = peer.request(1).stream
    sending = asyncio.create_task(stream.send(bytes(70_000)))
    await asyncio.sleep(1)
    peer.send(frames.window_update(0, 1 << 20))

    def sent() -> int:
        return sum(len(f.data) for f in peer.transport.read() if isinstance(f, theirs.DataFrame))

    assert sent() == 65_535
    peer.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
    peer.send(frames.window_update(1, 65_535))
    await asyncio.sleep(1)
    assert sent() == 0
    peer.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 65}))
    await asyncio.sleep(1)
    assert sent() == 65
    peer.send(frames.window_update(1, 4_400))
    await sending
    assert sent() == 4_400
    peer.transport.abort()


async def test_who_waits_for_room_is_told_of_the_end() -> None:
    peer = Peer().greet()
    peer.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
    stream = peer.request(1).stream
    sending = asyncio.create_task(stream.send(BODY))
    await asyncio.sleep(1)
    assert peer.connection.blocked == {stream}
    peer.transport.abort()
    with pytest.raises(StreamClosedError):
        await sending
    assert not peer.connection.blocked
    with pytest.raises(StreamClosedError):
        stream.end(b"")


async def test_a_refused_request_does_not_end_the_others() -> None:
    peer = Peer().greet()
    sink = peer.request(1)
    assert peer.request(3, bad="") is sink
    (refused,) = peer.transport.read()
    assert isinstance(refused, theirs.RstStreamFrame)
    peer.send(frames.head(frames.DATA, 1, 3, 5) + bytes(5))  # was on its way
    assert peer.request(5) is not sink
    assert not peer.kinds()
    peer.transport.abort()


@pytest.mark.parametrize("padding", [0, 100])
async def test_credit_is_given_once(padding: int) -> None:
    """Half of the window is credited at once, and never more than was sent."""
    peer = Peer().greet()
    sink = peer.request(1, end=False)
    size, given, taken = 1_000, 0, 0
    flags, before = (frames.PADDED, bytes((padding,))) if padding else (0, b"")
    frame = frames.head(frames.DATA, flags, 1, size)
    frame += before + bytes(size - len(before))
    for _ in range(1_000):
        peer.send(frame)
        taken += size
        sink.stream.credit(size - padding - len(before))
        given += sum(
            update.window_increment
            for update in peer.transport.read()
            if isinstance(update, theirs.WindowUpdateFrame) and update.stream_id
        )
        assert taken - WINDOW // 2 <= given <= taken
    peer.transport.abort()


async def test_more_than_the_window_is_refused() -> None:
    peer = Peer().greet()
    sink = peer.request(1, end=False)
    for _ in range(WINDOW // 1_024 + 1):
        peer.send(frames.head(frames.DATA, 0, 1, 1_024) + bytes(1_024))
    (reset,) = peer.transport.read()
    assert isinstance(reset, theirs.RstStreamFrame)
    assert reset.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert sink.is_lost
    peer.transport.abort()


WRONG = frames.head
SETTING = frames.Setting


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.DATA, 0, 0, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.DATA, 0, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.HEADERS, 4, 0, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.HEADERS, 4, 2, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.HEADERS, 4, 1, 1) + b"\xc0", ErrorCode.COMPRESSION_ERROR),
        (WRONG(frames.PRIORITY, 0, 1, 4) + bytes(4), ErrorCode.FRAME_SIZE_ERROR),
        (frames.rst_stream(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.RST_STREAM, 0, 1, 0), ErrorCode.FRAME_SIZE_ERROR),
        (WRONG(frames.SETTINGS, 0, 0, 5) + bytes(5), ErrorCode.FRAME_SIZE_ERROR),
        (WRONG(frames.SETTINGS, 1, 0, 6) + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
        (WRONG(frames.SETTINGS, 0, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({SETTING.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({SETTING.MAX_FRAME_SIZE: 16_383}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({SETTING.MAX_FRAME_SIZE: 1 << 24}), ErrorCode.PROTOCOL_ERROR),
        (frames.settings({SETTING.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
        (WRONG(frames.PUSH_PROMISE, 0, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.PING, 0, 0, 7) + bytes(7), ErrorCode.FRAME_SIZE_ERROR),
        (WRONG(frames.PING, 0, 1, 8) + bytes(8), ErrorCode.PROTOCOL_ERROR),
        (frames.ping(bytes(8)) * 9, ErrorCode.ENHANCE_YOUR_CALM),
        (WRONG(frames.GOAWAY, 0, 0, 7) + bytes(7), ErrorCode.FRAME_SIZE_ERROR),
        (WRONG(frames.GOAWAY, 0, 1, 8) + bytes(8), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.WINDOW_UPDATE, 0, 0, 3) + bytes(3), ErrorCode.FRAME_SIZE_ERROR),
        (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(0, frames.MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    ],
)
async def test_mistakes_that_end_the_connection(data: bytes, code: ErrorCode) -> None:
    peer = Peer()
    peer.send(data if data.startswith(b"GET") else GREETING + data)
    assert peer.code is code
    assert await seconds_to_the_end(peer) == pytest.approx(module.LINGER_SECONDS)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.window_update(1, frames.MAX_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
        (WRONG(frames.HEADERS, 4, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (WRONG(frames.DATA, 1, 1, 0) + WRONG(frames.DATA, 0, 1, 0), ErrorCode.STREAM_CLOSED),
        (WRONG(frames.DATA, 1, 1, 0) + WRONG(frames.HEADERS, 5, 1, 0), ErrorCode.STREAM_CLOSED),
    ],
)
async def test_mistakes_that_end_one_stream(data: bytes, code: ErrorCode) -> None:
    peer = Peer().greet()
    wrong = peer.request(1, end=False)
    other = peer.request(3)
    peer.send(data)
    (reset,) = peer.transport.read()
    assert isinstance(reset, theirs.RstStreamFrame)
    assert (reset.stream_id, reset.error_code) == (1, code)
    assert (wrong.is_lost, other.is_lost) == (True, False)
    peer.send(data)  # what was on its way is no further mistake
    assert not [frame for frame in peer.transport.read() if frame.stream_id]
    peer.transport.abort()


async def test_trailers_end_a_request_and_strange_frames_nothing() -> None:
    peer = Peer().greet()
    sink = peer.request(1, end=False)
    peer.send(WRONG(0xBE, 0xFF, 1, 3) + b"abc" + WRONG(frames.PRIORITY, 0, 7, 5) + bytes(5))
    before = sink.ended
    peer.send(WRONG(frames.HEADERS, 5, 1, 0))
    assert (before, sink.ended) == (False, True)
    assert not peer.kinds()
    peer.transport.abort()


# Each write is a packet, and wakes the peer.


def respond(sink: Sink, body: bytes = BODY) -> None:
    assert sink.stream.respond(block([(b":status", b"200")]), body, block([(b"status", b"0")]))


async def test_responses_of_one_round_are_written_in_one() -> None:
    peer = Peer().greet()
    sinks = [peer.request(stream) for stream in (1, 3, 5)]
    before = peer.transport.writes
    for sink in sinks[:2]:
        respond(sink)
    assert peer.transport.writes == before
    await asyncio.sleep(0)
    assert peer.transport.writes == before + 1
    assert peer.kinds() == ["Headers", "Data", "Headers"] * 2


async def test_the_response_that_nothing_can_follow_is_written_at_once() -> None:
    peer = Peer().greet()
    respond(peer.request(1))
    assert peer.kinds() == ["Headers", "Data", "Headers"]


async def test_large_responses_do_not_wait_for_each_other() -> None:
    peer = Peer()
    peer.send(frames.PREFACE + frames.settings({Setting.MAX_FRAME_SIZE: 65_536}))
    peer.send(frames.window_update(0, 1 << 20))
    peer.transport.read()
    sinks = [peer.request(stream) for stream in range(1, 17, 2)]
    for sink in sinks[:5]:
        respond(sink, bytes(60_000))
    assert peer.kinds() == ["Headers", "Data", "Headers"] * 5


async def test_other_frames_follow_the_responses_before_them() -> None:
    peer = Peer().greet()
    sinks = [peer.request(stream) for stream in (1, 3, 5)]
    respond(sinks[0])
    sinks[1].stream.reset(ErrorCode.CANCEL)
    assert peer.kinds() == ["Headers", "Data", "Headers", "RstStream"]


async def test_data_follows_the_responses_before_it() -> None:
    peer = Peer().greet()
    sinks = [peer.request(stream) for stream in (1, 3, 5)]
    sinks[1].stream.begin(block([(b":status", b"200")]))
    peer.transport.read()
    respond(sinks[0])
    await sinks[1].stream.send(BODY)
    assert [frame.stream_id for frame in peer.transport.read()] == [1, 1, 1, 3]


async def test_responses_are_written_before_the_connection_closes() -> None:
    peer = Peer().greet()
    sink, _ = [peer.request(stream) for stream in (1, 3)]
    peer.connection.drain()
    assert peer.kinds() == ["GoAway"]
    respond(sink)
    peer.send(frames.rst_stream(3, ErrorCode.CANCEL))  # so that nothing is open any more
    assert peer.transport.half_closed
    assert peer.kinds() == ["Headers", "Data", "Headers"]


async def test_responses_to_a_peer_that_has_left_are_dropped() -> None:
    peer = Peer().greet()
    sinks = [peer.request(stream) for stream in (1, 3)]
    respond(sinks[0])
    before = peer.transport.writes
    peer.transport.abort()
    await asyncio.sleep(0)
    assert peer.transport.writes == before
