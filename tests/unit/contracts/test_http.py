"""The HTTP contract, spoken over real sockets with instances that do as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.contracts import connections
from skybridge_server.contracts.base import Connect
from skybridge_server.contracts.delivery import CHUNK_BYTES, HIGH_WATER_BYTES
from skybridge_server.contracts.heads import MAX_HEAD_BYTES
from skybridge_server.contracts.http import HttpConversation, environment
from skybridge_server.contracts.http1 import Connection
from skybridge_server.contracts.outbox import Outbox
from skybridge_server.errors import (
    InstanceGoneError,
    InvalidArgumentError,
    ProtocolError,
    SkybridgeError,
)
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import FunctionName
from tests.support.instances import Output, Peer, Script, a_call, scripted
from tests.support.waiting import PATIENCE, until

HELLO = FunctionName("default", "hello")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nworld"


@contextlib.asynccontextmanager
async def speaking_to(
    script: Script, *, path: str = "/", health_path: str = ""
) -> AsyncIterator[HttpConversation]:
    async with scripted(script) as connect, speaking(connect, path, health_path) as conversation:
        yield conversation


@contextlib.asynccontextmanager
async def speaking(
    connect: Connect, path: str = "/", health_path: str = ""
) -> AsyncIterator[HttpConversation]:
    conversation = HttpConversation(connect, HELLO, path=path, health_path=health_path)
    try:
        async with asyncio.timeout(PATIENCE):
            yield conversation
    finally:
        await conversation.close()


def saying(answer: bytes) -> Script:
    """Return a script that answers each request with these bytes, and hangs up at the end."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            peer.say(answer)

    return script


def once(answer: bytes) -> Script:
    """Return a script that answers one request with these bytes, and hangs up."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(answer)

    return script


# -- what is sent ---------------------------------------------------------------------------------


async def test_what_the_function_is_asked() -> None:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        peer.say(OK)

    async with speaking_to(script, path="/run?x=1") as conversation:
        await conversation.call(
            a_call(
                headers={"X-Mine": "grüße", "ce-id": "1", "Connection": "X-Hop", "X-Hop": "1"},
                traceparent="00-trace",
            ),
            Output(),
        )

    first, fields, body = seen[0]
    assert first == "POST /run?x=1 HTTP/1.1"
    assert fields == {
        "host": "hello.default",
        "user-agent": "skybridge",
        "forwarded": "for=unknown;host=hello.default;proto=http",
        "x-forwarded-for": "unknown",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "hello.default",
        "x-mine": "grüße",
        "ce-id": "1",
        "content-type": "text/plain",
        "content-length": "5",
        "x-skybridge-execution-id": "e1",
        "x-skybridge-deadline": "2100-01-31T12:00:00.123+00:00",
        "function-execution-id": "e1",
        "traceparent": "00-trace",
    }
    assert body == b"hello"


async def test_headers_that_a_caller_cannot_set() -> None:
    seen: list[dict[str, str]] = []

    async def script(peer: Peer) -> None:
        seen.append((await peer.request())[1])
        peer.say(OK)

    theirs = {
        "Host": "evil",
        "Content-Length": "1",
        "content-type": "evil/evil",
        "Transfer-Encoding": "chunked",
        "Upgrade": "h2c",
        "TE": "trailers",
        "Trailer": "x",
        "Keep-Alive": "1",
        "Expect": "100-continue",
        "Proxy-Connection": "close",
        "X-Skybridge-Execution-Id": "another",
        "X-SKYBRIDGE-ANYTHING": "1",
        "Function-Execution-Id": "another",
        "User-Agent": "theirs",
        "Forwarded": "for=192.0.2.1",
        "X-Forwarded-For": "192.0.2.1",
        "Traceparent": "00-theirs",
    }
    async with speaking_to(script) as conversation:
        await conversation.call(a_call(headers=theirs, content_type=""), Output())

    assert seen == [
        {
            "host": "hello.default",
            "user-agent": "theirs",
            "forwarded": "for=192.0.2.1",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-proto": "http",
            "x-forwarded-host": "hello.default",
            "traceparent": "00-theirs",
            "content-type": "application/octet-stream",
            "content-length": "5",
            "x-skybridge-execution-id": "e1",
            "x-skybridge-deadline": "2100-01-31T12:00:00.123+00:00",
            "function-execution-id": "e1",
        }
    ]


@pytest.mark.parametrize(
    ("headers", "content_type", "traceparent"),
    [
        ({"X": "a\r\nTransfer-Encoding: chunked"}, "", ""),
        ({"X": "a\nb"}, "", ""),
        ({"X": "a\0"}, "", ""),
        ({"X\r\nY": "a"}, "", ""),
        ({"transfer-encoding: chunked\r\nx": "a"}, "", ""),
        ({"": "a"}, "", ""),
        ({}, "text/plain\r\nX: 1", ""),
        ({}, "", "00\r\nX: 1"),
    ],
)
async def test_what_cannot_be_sent_is_not(
    headers: dict[str, str], content_type: str, traceparent: str
) -> None:
    async def connect() -> socket.socket:
        raise AssertionError("nothing was to be sent")

    async with speaking(connect) as conversation:
        with pytest.raises(InvalidArgumentError):
            await conversation.call(
                a_call(headers=headers, content_type=content_type, traceparent=traceparent),
                Output(),
            )


@pytest.mark.parametrize("path", ["", "run", "/a b", "/\r\nX: 1", "/ü"])
def test_paths_that_cannot_be_sent(path: str) -> None:
    async def connect() -> socket.socket:
        raise AssertionError

    with pytest.raises(InvalidArgumentError, match="path"):
        HttpConversation(connect, HELLO, path=path)


async def test_a_large_input_and_output() -> None:
    input_ = bytes(range(256)) * 4096 * 3

    async def script(peer: Peer) -> None:
        _, _, body = await peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await peer.until_closed()

    output = Output()
    async with speaking_to(script) as conversation:
        await conversation.call(a_call(input_), output)
    assert output.whole == input_
    assert max(map(len, output.chunks)) <= CHUNK_BYTES


# -- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 299, 301, 308])
async def test_success(status: int) -> None:
    output = Output()
    answer_bytes = OK.replace(b"200 OK", b"%d Whatever\r\nX-Mine: 1\r\nx-mine: 2" % status)
    async with speaking_to(saying(answer_bytes)) as conversation:
        answer = await conversation.call(a_call(), output)
    assert output.whole == b"world"
    assert answer.failure is None
    assert answer.status == status
    assert answer.content_type == "text/plain"
    assert answer.headers == {"x-mine": "1, 2"}
    assert answer.reusable


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "400 Bad Request"), (404, "404 Not Found"), (500, "500 Internal"), (599, "599")],
)
async def test_a_failure_of_the_function(status: int, said: str) -> None:
    output = Output()
    async with speaking_to(saying(OK.replace(b"200", b"%d" % status))) as conversation:
        for _ in range(2):
            answer = await conversation.call(a_call(), output)
            assert answer.failure is not None
            assert answer.failure.reason is FailureReason.FUNCTION_ERROR
            assert f"answered {said}" in answer.failure.message
            assert answer.reusable
    assert output.whole == b"worldworld"


WHOLE = {
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwo\r\n3;x\r\nrld\r\n0\r\n\r\n"
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\nX: 1\r\n\r\n"
    ),
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nworld",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nworld",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nworld",
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nworld",
    "100 before": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "103 before, twice": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2 + OK,
    "same length twice": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
}


NEED_THE_END = {"until the end", "HTTP/1.0"}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE)
async def test_answers_that_are_whole(answer: bytes) -> None:
    async with speaking_to(once(answer)) as conversation:
        for _ in range(2):
            output = Output()
            said = await conversation.call(a_call(), output)
            assert (said.failure, said.reusable, output.whole) == (None, True, b"world")


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - NEED_THE_END))
async def test_answers_that_need_no_end_of_the_connection(name: str) -> None:
    async with speaking_to(saying(WHOLE[name])) as conversation:
        for _ in range(3):
            output = Output()
            said = await conversation.call(a_call(), output)
            assert (said.failure, said.reusable, output.whole) == (None, True, b"world")


@pytest.mark.parametrize("head", [b"204 No Content", b"304 Not Modified\r\nContent-Length: 5"])
async def test_answers_without_a_body(head: bytes) -> None:
    output = Output()
    async with speaking_to(saying(b"HTTP/1.1 " + head + b"\r\n\r\n")) as conversation:
        for _ in range(3):
            assert (await conversation.call(a_call(), output)).failure is None
    assert output.chunks == []


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "garbage": b"hello\r\n\r\n",
    "garbage without an end": b"hello",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nworld",
    "length and encoding": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
    "different lengths": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 6\r\n\r\n"),
    "folded line": OK.replace(b"\r\n\r\n", b"\r\n x\r\n\r\n"),
    "bad length": OK.replace(b": 5", b": -5"),
    "bad chunk size": CHUNKED + b"zz\r\nworld\r\n0\r\n\r\n",
    "bad chunk end": CHUNKED + b"4\r\nworld\r\n0\r\n\r\n",
    "gzip": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "oversized head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * (MAX_HEAD_BYTES // 6 + 1),
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 129 + b"\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "more than announced": OK + b"!",
    "a second answer": OK + OK,
    "body of a 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nworld",
    "bytes after the last chunk": CHUNKED + b"0\r\n\r\nx",
}
CUT_SHORT = {
    "nothing": b"",
    "half a head": OK[:20],
    "nothing but a head": OK[:-5],
    "less than announced": OK[:-1],
    "no last chunk": CHUNKED + b"5\r\nworld\r\n",
    "half a chunk": CHUNKED + b"5\r\nwor",
    "no end of trailers": CHUNKED + b"0\r\nX: 1\r\n",
    "only 100": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
async def test_answers_that_break_the_protocol(answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(answer)
        await peer.until_closed()

    async with speaking_to(script) as conversation:
        with pytest.raises(ProtocolError) as raised:
            await conversation.call(a_call(), Output())
    assert len(raised.value.message) < 400


@pytest.mark.parametrize("answer", CUT_SHORT.values(), ids=CUT_SHORT)
async def test_answers_that_are_cut_short(answer: bytes) -> None:
    async with speaking_to(once(answer)) as conversation:
        with pytest.raises(InstanceGoneError):
            await conversation.call(a_call(), Output())


@pytest.mark.parametrize("answer", [b"", OK[:-1], b"HTTP/1.1 200 OK\r\n\r\nwor"])
async def test_an_instance_that_is_killed(answer: bytes) -> None:
    """Also where the answer lasts until the end: a broken connection is no end."""
    output = Output()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(answer)
        if answer:
            await output.grew.wait()
        sock = peer.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.reset()

    async with speaking_to(script) as conversation:
        with pytest.raises(InstanceGoneError):
            await conversation.call(a_call(), output)


async def test_nothing_listens() -> None:
    async with scripted(once(OK)) as connect:
        pass
    async with speaking(connect) as conversation:
        with pytest.raises(InstanceGoneError, match="takes no connection"):
            await conversation.call(a_call(), Output())


# -- streaming ------------------------------------------------------------------------------------


async def test_chunks_are_handed_on_while_they_arrive() -> None:
    output = Output()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(CHUNKED)
        for word in (b"one", b"two", b"three"):
            output.grew.clear()
            peer.say(b"%x\r\n%b\r\n" % (len(word), word))
            await output.grew.wait()
        peer.say(b"0\r\n\r\n")
        await peer.until_closed()

    async with speaking_to(script) as conversation:
        await conversation.call(a_call(), output)
    assert output.chunks == [b"one", b"two", b"three"]


async def test_a_slow_sink_holds_the_instance_back() -> None:
    """32 MiB are more than the kernel's buffers hold."""
    blocks, block = 512, b"x" * 64 * 1024
    written = 0

    async def script(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * len(block)))
        for _ in range(blocks):
            peer.say(block)
            await peer.writer.drain()
            written += 1
        await peer.until_closed()

    output = Output()
    output.free.clear()
    async with speaking_to(script) as conversation:
        calling = asyncio.create_task(conversation.call(a_call(), output))
        await output.grew.wait()
        (connection,) = conversation._connections._open
        delivery = connection._delivery
        assert delivery is not None

        async def held_back() -> bool:
            return delivery._source is not None

        await until(held_back, "a connection that is read no further")
        assert len(output.chunks) == 1
        assert written < blocks
        assert delivery._waiting_bytes < 4 * HIGH_WATER_BYTES
        output.free.set()
        assert (await calling).failure is None
        assert delivery._source is None
    assert len(output.whole) == blocks * len(block)


class SinkError(Exception):
    pass


class BadSink:
    """Takes nothing, and says so at once or in a while."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once

    def __call__(self, data: bytes) -> Awaitable[None]:
        if self.at_once:
            raise SinkError
        return self.fail()

    async def fail(self) -> None:
        raise SinkError


@pytest.mark.parametrize("at_once", [True, False])
async def test_what_a_sink_raises_ends_the_call(at_once: bool) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(OK[:-1])
        await peer.until_closed()
        closed.set()

    async with speaking_to(script) as conversation:
        with pytest.raises(SinkError):
            await conversation.call(a_call(), BadSink(at_once=at_once))
        await closed.wait()


async def test_a_cancelled_call_hangs_up() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.until_closed()
        closed.set()

    async with speaking_to(script) as conversation:
        calling = asyncio.create_task(conversation.call(a_call(), Output()))
        await asked.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await closed.wait()


async def test_the_instance_has_ended_while_it_was_asked() -> None:
    """A paused or hung one says nothing, whatever the engine knows: the owner ends the call."""
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.until_closed()

    async with speaking_to(script) as conversation:
        calling = asyncio.create_task(conversation.call(a_call(), Output()))
        await asked.wait()
        await conversation.close()
        with pytest.raises(InstanceGoneError):
            await calling
        with pytest.raises(InstanceGoneError, match="has ended"):
            await conversation.call(a_call(), Output())


# -- kept connections -----------------------------------------------------------------------------


async def test_a_connection_is_kept() -> None:
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            numbers.append(peer.number)
            peer.say(OK)

    async with speaking_to(script) as conversation:
        for _ in range(5):
            await conversation.call(a_call(), Output())
    assert numbers == [1] * 5


async def test_several_calls_at_once_have_a_connection_each() -> None:
    together = asyncio.Barrier(3)

    async def script(peer: Peer) -> None:
        while True:
            _, fields, _ = await peer.request()
            await together.wait()
            name = fields["x-skybridge-execution-id"].encode()
            peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    async def one(conversation: HttpConversation, name: str) -> None:
        output = Output()
        await conversation.call(a_call(execution=name), output)
        assert output.whole == name.encode()

    async with speaking_to(script) as conversation:
        for turn in range(4):
            await asyncio.gather(*(one(conversation, f"{turn}-{n}") for n in range(3)))


async def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.say(OK)
        await peer.writer.drain()
        peer.writer.close()
        await peer.writer.wait_closed()
        closed.set()

    async with speaking_to(script) as conversation:
        for _ in range(5):
            closed.clear()
            assert (await conversation.call(a_call(), Output())).reusable
            await closed.wait()


async def test_one_that_closes_each_time_without_a_word_is_found_out() -> None:
    """It could close while the next request is on its way, and nobody would know what it did."""
    closed, numbers = asyncio.Event(), []

    async def script(peer: Peer) -> None:
        await peer.request()
        numbers.append(peer.number)
        peer.say(OK)
        if peer.number == 1:
            await peer.writer.drain()
            peer.writer.close()
            await peer.writer.wait_closed()
            closed.set()
        await peer.until_closed()

    async with speaking_to(script) as conversation:
        await conversation.call(a_call(), Output())
        await closed.wait()
        for _ in range(3):
            await conversation.call(a_call(), Output())
    assert numbers == [1, 2, 3, 4]


async def test_one_that_says_something_unasked_is_not_used_again() -> None:
    numbers: list[int] = []
    said = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        numbers.append(peer.number)
        peer.say(OK)
        await peer.writer.drain()
        peer.say(OK.replace(b"world", b"wrong"))
        await peer.writer.drain()
        said.set()
        await peer.until_closed()

    async with speaking_to(script) as conversation:
        for _ in range(3):
            output = Output()
            try:
                await conversation.call(a_call(), output)
            except ProtocolError:
                pass  # it came together with the answer
            else:
                assert output.whole == b"world"
            await said.wait()
            said.clear()
    assert numbers == [1, 2, 3]


async def test_one_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_IDLE", 0.0)
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            numbers.append(peer.number)
            peer.say(OK)

    async with speaking_to(script) as conversation:
        for _ in range(3):
            await conversation.call(a_call(), Output())
    assert numbers == [1, 2, 3]


async def test_an_answer_to_half_a_request() -> None:
    """It is whole, but what the other side makes of the rest of the request nobody knows."""
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        numbers.append(peer.number)
        peer.say(OK.replace(b"200", b"413"))
        await peer.writer.drain()
        await asyncio.Event().wait()

    async with speaking_to(script) as conversation:
        for _ in range(2):
            answer = await conversation.call(a_call(b"x" * 16 * 1024 * 1024), Output())
            assert answer.status == 413
    assert numbers == [1, 2]


# -- readiness ------------------------------------------------------------------------------------


async def test_ready_once_it_listens() -> None:
    tries = 0

    async with scripted(saying(OK)) as listening:

        async def connect() -> socket.socket:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise ConnectionRefusedError
            return await listening()

        async with speaking(connect) as conversation:
            await conversation.ready()
            assert tries == 4
            await conversation.call(a_call(), Output())
            assert tries == 4


async def test_ready_once_it_is_healthy() -> None:
    seen: list[str] = []
    answers = [b"", OK.replace(b"200", b"503"), OK.replace(b"200", b"302")]

    async def script(peer: Peer) -> None:
        while True:
            first, _, _ = await peer.request()
            seen.append(first)
            answer = answers[len(seen) - 1]
            if not answer:
                return
            peer.say(answer)

    async with speaking_to(script, health_path="/healthz") as conversation:
        await conversation.ready()
    assert seen == ["GET /healthz HTTP/1.1"] * 3


async def test_never_ready_when_it_speaks_garbage() -> None:
    async with speaking_to(once(b"220 mail\r\n"), health_path="/") as conversation:
        with pytest.raises(ProtocolError):
            await conversation.ready()


@pytest.mark.parametrize("health_path", ["", "/healthz"])
async def test_waiting_for_readiness_ends_with_the_instance(health_path: str) -> None:
    tried = asyncio.Event()

    async def connect() -> socket.socket:
        tried.set()
        raise ConnectionRefusedError

    async with speaking(connect, health_path=health_path) as conversation:
        waiting = asyncio.create_task(conversation.ready())
        await tried.wait()
        await conversation.close()
        with pytest.raises(InstanceGoneError):
            await waiting


async def test_waiting_for_a_health_check_ends_with_the_instance() -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.until_closed()

    async with speaking_to(script, health_path="/healthz") as conversation:
        waiting = asyncio.create_task(conversation.ready())
        await asked.wait()
        await conversation.close()
        with pytest.raises(InstanceGoneError):
            await waiting


# -- CloudEvents, unchanged -----------------------------------------------------------------------


async def test_cloud_events_in_binary_mode() -> None:
    event = {
        "ce-specversion": "1.0",
        "ce-id": "A234-1234-1234",
        "ce-type": "com.example.someevent",
        "ce-source": "/mycontext",
        "ce-time": "2018-04-05T17:31:00Z",
        "ce-comexampleextension1": "Euro%20%E2%82%AC",
    }

    async def script(peer: Peer) -> None:
        _, fields, body = await peer.request()
        kept = "".join(f"{k}: {v}\r\n" for k, v in fields.items() if k.startswith("ce-"))
        head = f"HTTP/1.1 200 OK\r\n{kept}Content-Type: {fields['content-type']}\r\n"
        peer.say(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    output = Output()
    async with speaking_to(script) as conversation:
        answer = await conversation.call(
            a_call(b'{"a": 1}', content_type="application/json", headers=event), output
        )
    assert answer.headers == event
    assert (answer.content_type, output.whole) == ("application/json", b'{"a": 1}')


async def test_cloud_events_in_structured_mode() -> None:
    kind = "application/cloudevents+json; charset=UTF-8"
    event = b'{"specversion":"1.0","id":"1","type":"t","source":"/s","data":{"a":1}}'

    async def script(peer: Peer) -> None:
        _, fields, body = await peer.request()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {fields['content-type']}\r\n"
        peer.say(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    output = Output()
    async with speaking_to(script) as conversation:
        answer = await conversation.call(a_call(event, content_type=kind), output)
    assert (answer.content_type, output.whole) == (kind, event)


# -- what nobody thought of -----------------------------------------------------------------------


async def exchanged(parts: list[bytes]) -> tuple[int, bytes] | SkybridgeError:
    """Return the status and the body of an answer that arrives in these parts, or the error."""
    ours, theirs = socket.socketpair()
    with theirs:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(ours, Outbox()), sock=ours)
        output = Output()
        delivery = connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
        reading = asyncio.create_task(delivery.to(output))
        await asyncio.sleep(0)
        for part in parts:
            if part and not connection.closed:
                connection.data_received(part)
        connection.eof_received()
        try:
            async with asyncio.timeout(PATIENCE):
                await reading
                return connection.finish().status, output.whole
        except SkybridgeError as error:
            return error
        finally:
            await connection.close()


async def test_an_answer_to_what_was_not_sent_yet_is_none() -> None:
    outbox, loop = Outbox(), asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(2)]
    connections = [
        (await loop.create_connection(partial(Connection, ours, outbox), sock=ours))[1]
        for ours, _ in pairs
    ]
    first, second = [each.send(b"GET / HTTP/1.1\r\n\r\n", b"") for each in connections]
    connections[1].data_received(OK)
    assert second.collected is None
    with pytest.raises(InstanceGoneError, match="was not asked"):
        await second.to(Output())
    await asyncio.sleep(0)
    assert pairs[0][1].recv(100)
    assert not pairs[1][1].recv(100)
    assert first.collected is None
    for connection in connections:
        await connection.close()
    for _, theirs in pairs:
        theirs.close()


@given(answer=st.sampled_from([*WHOLE.values(), OK]), at=st.lists(st.integers(0, 200), max_size=12))
def test_answers_are_understood_however_they_are_cut(answer: bytes, at: list[int]) -> None:
    where = [0, *sorted(min(each, len(answer)) for each in at), len(answer)]
    parts = [answer[a:b] for a, b in itertools.pairwise(where)]

    async def run() -> None:
        said = await exchanged(parts)
        assert not isinstance(said, SkybridgeError)
        assert said == (200, b"world")

    asyncio.run(run())


@given(
    garbage=st.binary(max_size=60),
    answer=st.sampled_from([*WHOLE.values(), *BROKEN.values(), *CUT_SHORT.values(), OK]),
    at=st.integers(0, 200),
    cut=st.integers(0, 200),
)
def test_garbage_never_hangs_or_breaks_us(garbage: bytes, answer: bytes, at: int, cut: int) -> None:
    wire = answer[:at] + garbage + answer[at:]
    asyncio.run(exchanged([wire[:cut], wire[cut:]]))


# -- the environment ------------------------------------------------------------------------------


def test_the_environment() -> None:
    spec = FunctionSpec("image", env={"MINE": "1", "PORT": "1", "K_SERVICE": "x"})
    assert environment(spec, HELLO, 3, 8080) == {
        "MINE": "1",
        "PORT": "8080",
        "K_SERVICE": "hello",
        "K_CONFIGURATION": "hello",
        "K_REVISION": "hello-00003",
        "SKYBRIDGE_FUNCTION": "namespaces/default/functions/hello",
        "SKYBRIDGE_REVISION": "3",
    }
