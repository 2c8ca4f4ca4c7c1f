"""Peers that want to hurt: what they hold is little, and the others do not notice."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Iterator
from functools import partial

import grpc
import hpack
import pytest
from h2.errors import ErrorCodes

from skybridge_server.api.wire import room
from skybridge_server.api.wire import server as wire_server
from skybridge_server.api.wire.calls import Call
from skybridge_server.http2 import connection as http2
from skybridge_server.http2 import frames
from skybridge_server.http2.errors import ErrorCode
from skybridge_server.http2.streams import Stream
from tests.api.wire.wired import Wired, contexts, wired
from tests.support.http2_peer import Answer, Peer, call_headers, message, peer
from tests.support.waiting import PATIENCE, until

SESSIONS = 150


async def begin(one: Peer, path: str) -> int:
    stream = one.open(path)
    await one.send(stream, message(b""), end=True)
    return stream


async def test_rapid_resets_do_not_pile_up_handlers(
    server: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "MAX_STREAMS", 10)
    async with peer(server.port) as one, peer(server.port) as other:
        for _ in range(10):
            server.behaviours.entered.clear()
            stream = await begin(one, "/t.T/insist")
            await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
            one.h2.reset_stream(stream, ErrorCodes.CANCEL)
        for _ in range(100):
            one.h2.reset_stream(await begin(one, "/t.T/insist"), ErrorCodes.CANCEL)
        refused = await one.answer(await begin(one, "/t.T/echo"))
        assert refused.reset == ErrorCodes.REFUSED_STREAM
        assert server.wire.counts.started == 10
        assert (await other.call("/t.T/echo", b"other")).messages == [b"other"]
        server.behaviours.go_on.set()
        await server.idle()
        assert (await one.call("/t.T/echo", b"again")).messages == [b"again"]


async def test_requests_of_all_callers_have_bounded_room(
    server: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_HELD_BYTES", 1000)
    async with peer(server.port) as one, peer(server.port) as other:
        waiting = one.open("/t.T/wait")
        await one.send(waiting, message(bytes(800)), end=True)
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        refused = await other.call("/t.T/echo", bytes(300))
        assert refused.status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert "come back later" in refused.detail
        assert "grpc-status-details-bin" in dict(refused.headers + refused.trailers)
        assert (await other.call("/t.T/echo", b"small")).messages == [b"small"]
        server.behaviours.go_on.set()
        await one.answer(waiting)
        assert (await other.call("/t.T/echo", bytes(300))).messages == [bytes(300)]


async def test_a_stream_has_room_for_each_of_its_messages(
    server: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_HELD_BYTES", 1000)
    async with peer(server.port) as one:
        stream = one.open("/t.T/chat")
        answers = one.answers[stream]
        for _ in range(9):
            came = len(answers.messages)
            await one.send(stream, message(bytes(600)))
            await one.until(partial(_more, answers, came))
        assert answers.messages == [bytes(600)] * 9


def _more(answers: Answer, than: int) -> bool:
    return len(answers.messages) > than


async def test_a_waiting_call_and_a_silent_connection_cost_little(server: Wired) -> None:
    async with peer(server.port) as one:
        for number in range(600):
            if number == 100:  # by now, what is made once is made
                await server.behaviours.entered.wait()
                await one.call("/t.T/echo", b"")
                tracemalloc.start()
            await begin(one, "/t.T/wait")
        await one.call("/t.T/echo", b"")
        taken = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, "*/skybridge_server/*")]
        )
        tracemalloc.stop()
        assert server.running == 600
        assert sum(trace.size for trace in taken.statistics("filename")) < 500 * 6_000


def alive() -> set[int]:
    return {id(each) for each in gc.get_objects() if isinstance(each, Call | Stream)}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Leave garbage where it is."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_call_is_kept_nor_left_to_the_garbage_collector(server: Wired) -> None:
    before = alive()  # tracebacks of other tests may keep some
    async with peer(server.port) as one:
        await one.call("/t.T/echo", b"", ("grpc-timeout", "1H"))
        await one.call("/t.T/pieces", b"3 3", ("grpc-timeout", "1H"))
        await one.call("/t.T/fail", b"", ("grpc-timeout", "1H"))
        await server.idle()
        server.logged.clear()  # of tracebacks, too
        assert alive() <= before


async def test_who_begins_no_handshake_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_server, "HANDSHAKE_SECONDS", 0.05)
    context, _ = contexts([])
    async with wired(context) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.transport.abort()
        assert not server.wire.connections
        assert not server.errors


async def test_who_does_not_say_in_tls_that_it_speaks_http_2_is_cut_off() -> None:
    context, trusting = contexts([])
    async with wired(context) as server:
        async with peer(server.port, tls=trusting) as one:
            await one.until_closed()
        await server.alone()
        trusting.set_alpn_protocols([http2.ALPN])
        async with peer(server.port, tls=trusting) as one:
            assert (await one.call("/t.T/large", b"500000")).messages == [bytes(500_000)]
            stream = await begin(one, "/t.T/wait")
            await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
            stopping = asyncio.create_task(server.wire.stop(3_600))
            await one.until(lambda: one.goaway is not None)
            server.behaviours.go_on.set()
            assert (await one.answer(stream)).messages == [b""]
            await one.until_closed()
            one.vanish()
            await stopping


async def test_a_peer_in_tls_that_never_reads_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusting = contexts([http2.ALPN])
    monkeypatch.setattr(wire_server, "FAREWELL_SECONDS", 0.05)
    async with wired(context) as server, peer(server.port, tls=trusting) as one:
        one.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
        for _ in range(300):
            one.open("/t.T/large")
            await one.send(2 * len(one.answers) - 1, message(b"60000"), end=True)

        async def blocked() -> bool:
            return any(connection.blocked for connection in server.wire.connections)

        await until(blocked, "a full buffer")
        await server.wire.stop(0.01)
        await server.alone()


def session(choice: random.Random) -> bytes:
    """Return all that a client says in a few calls, some of them broken off."""
    encoder = hpack.Encoder()
    said = [frames.PREFACE, frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1_000})]
    for stream in range(1, 2 * choice.randrange(2, 9), 2):
        path = choice.choice(["echo", "large", "pieces", "chat", "early", "deaf", "none", "fail"])
        headers = call_headers(f"/t.T/{path}", ("n", str(choice.randrange(3))))
        said.append(frames.headers(stream, encoder.encode(headers), 50))
        body = message(b"2 2") * choice.randrange(3)
        said.append(frames.head(frames.DATA, choice.randrange(2), stream, len(body)) + body)
        said.append(
            choice.choice(
                [
                    frames.rst_stream(stream, ErrorCode.CANCEL),
                    frames.window_update(stream, 1_000),
                    frames.window_update(0, 1_000),
                    frames.ping(bytes(8)),
                    frames.SETTINGS_ACK,
                    b"",
                ]
            )
        )
    return b"".join(said)


def mutated(data: bytes, choice: random.Random) -> bytes:
    """Return bytes with some changed, left out, or said twice; most often after the preface."""
    changed = bytearray(data)
    for _ in range(choice.randrange(1, 6)):
        at = choice.randrange(0 if choice.random() < 0.05 else len(frames.PREFACE), len(changed))
        match choice.randrange(3):
            case 0:
                changed[at] = choice.randrange(256)
            case 1:
                del changed[at : at + choice.randrange(1, 20)]
            case _:
                changed[at:at] = changed[at : at + choice.randrange(1, 60)]
    return bytes(changed)


async def test_sessions_with_wrong_bytes_harm_nobody(server: Wired) -> None:
    async with peer(server.port) as other:
        for seed in range(SESSIONS):
            choice = random.Random(seed)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            data = mutated(session(choice), choice)
            cut = choice.randrange(len(data))
            for piece in (data[:cut], data[cut:]):
                writer.write(piece)
                answer = await other.call("/t.T/echo", b"%d" % seed)
                assert answer.messages == [b"%d" % seed], seed
            if not writer.transport.is_closing():
                writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                while await _read(reader):
                    pass
            writer.transport.abort()
        server.behaviours.go_on.set()
        await server.idle()
    await server.alone()
    assert set(server.errors) <= {"call failed"}  # what `fail` is for
    assert not server.broken


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""
