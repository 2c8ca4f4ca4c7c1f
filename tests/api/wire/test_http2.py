"""HTTP/2 under real calls, with a strict peer of another making."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from skybridge_server.api.wire import server as wire_server
from skybridge_server.http2 import connection as http2
from skybridge_server.http2.streams import WINDOW
from tests.api.wire.wired import Wired, contexts, wired
from tests.support.http2_peer import Peer, message, peer
from tests.support.waiting import PATIENCE, until

MIB = 1 << 20


async def test_a_call(server: Wired) -> None:
    async with peer(server.port) as one:
        answer = await one.call("/t.T/echo", b"hello")
    assert dict(answer.headers)[":status"] == "200"
    assert dict(answer.headers)["content-type"] == "application/grpc"
    assert (answer.messages, answer.status) == ([b"hello"], 0)
    assert answer.reset is None


async def test_many_calls_at_once_each_get_their_answer(server: Wired) -> None:
    async with peer(server.port) as one:
        streams = [one.open("/t.T/echo", ("grpc-timeout", f"{n + 1}H")) for n in range(500)]
        for stream in streams:
            one.h2.send_data(stream, message(b"%d" % stream), end_stream=True)
        await one.flush()
        for stream in streams:
            assert (await one.answer(stream)).messages == [b"%d" % stream]


async def test_requests_larger_than_all_windows(server: Wired) -> None:
    async with peer(server.port) as one:
        for _ in range(3):  # what was not credited would be missing at the third
            answer = await one.call("/t.T/size", bytes(7 * MIB))
            assert answer.messages == [b"%d" % (7 * MIB)]
        window = one.h2.outbound_flow_control_window
        assert http2.CONNECTION_WINDOW // 2 < window <= http2.CONNECTION_WINDOW


async def test_a_window_of_requests_is_kept_until_they_are_taken(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/deaf")
        await one.flush()
        await one.until(lambda: one.h2.remote_settings.initial_window_size == WINDOW)
        part = message(bytes(16_379))
        for _ in range(WINDOW // len(part)):
            await one.send(stream, part)
        assert one.h2.local_flow_control_window(stream) == 0
        await one.call("/t.T/echo", b"")  # by now it would have been credited
        assert one.h2.local_flow_control_window(stream) == 0
        server.behaviours.go_on.set()
        await one.send(stream, part * 20, end=True)
        answer = await one.answer(stream)
    assert answer.messages == [b"16379"] * (WINDOW // len(part) + 20)


async def test_answers_larger_than_the_peers_windows(server: Wired) -> None:
    async with peer(server.port, {SettingCodes.INITIAL_WINDOW_SIZE: 5_000}) as one:
        answer = await one.call("/t.T/large", b"300000")
        assert answer.messages == [bytes(300_000)]
        answer = await one.call("/t.T/pieces", b"30 9999")
        assert answer.messages == [bytes(9_999)] * 30


async def test_frames_as_large_as_the_peer_takes(server: Wired) -> None:
    settings = {SettingCodes.MAX_FRAME_SIZE: 1 << 20, SettingCodes.INITIAL_WINDOW_SIZE: 1 << 22}
    async with peer(server.port, settings) as one:
        assert (await one.call("/t.T/large", b"1000000")).messages == [bytes(1_000_000)]


async def test_a_peer_that_wants_no_table_of_headers(server: Wired) -> None:
    async with peer(server.port) as one:
        assert (await one.call("/t.T/echo", b"")).status == 0
        one.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
        for _ in range(2):
            assert (await one.call("/t.T/echo", b"x")).messages == [b"x"]
            assert (await one.call("/t.T/pieces", b"1 2")).messages == [bytes(2)]
            assert (await one.call("/t.T/nothing", b"")).status == 12
        one.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 4_096})
        assert (await one.call("/t.T/echo", b"x")).messages == [b"x"]


async def test_windows_that_the_peer_makes_smaller_while_we_send(server: Wired) -> None:
    async with peer(server.port, {SettingCodes.INITIAL_WINDOW_SIZE: 40_000}) as one:
        one.credits = False
        stream = one.open("/t.T/large")
        await one.send(stream, message(b"60000"), end=True)
        body = one.answers[stream].body
        await one.until(lambda: len(body) == 40_000)
        one.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})  # 39 900 below zero
        one.h2.increment_flow_control_window(39_900, stream)
        await one.flush()
        assert (await one.call("/t.T/echo", b"")).status == 0
        assert len(body) == 40_000
        one.h2.increment_flow_control_window(50_000, stream)
        await one.flush()
        assert (await one.answer(stream)).messages == [bytes(60_000)]


async def test_who_does_not_read_holds_up_the_handler(server: Wired) -> None:
    windows = {SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1}
    async with peer(server.port, windows) as one:
        one.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
        one.credits = False
        stream = one.open("/t.T/pieces")
        await one.send(stream, message(b"300 100000"), end=True)

        async def blocked() -> bool:
            return bool(server.connection.blocked)

        await until(blocked, "a full buffer")
        assert server.behaviours.yielded < 200
        assert server.connection.transport.get_write_buffer_size() < MIB
        answer = await one.answer(stream)
        assert len(answer.messages) == 300


async def test_who_breaks_off_ends_the_handler(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/wait")
        await one.send(stream, message(b""), end=True)
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        one.h2.reset_stream(stream, ErrorCodes.CANCEL)
        await one.flush()
        await asyncio.wait_for(server.behaviours.cleaned.wait(), PATIENCE)
        await server.idle()
        assert (await one.call("/t.T/echo", b"still")).messages == [b"still"]


@pytest.mark.parametrize("path", ["/t.T/echo", "/t.T/wait", "/t.T/pieces", "/t.T/chat"])
async def test_who_breaks_off_at_once_leaves_nothing(server: Wired, path: str) -> None:
    """In one piece with the request, before anything of the call has run."""
    async with peer(server.port) as one:
        for _ in range(100):
            stream = one.open(path)
            one.h2.send_data(stream, message(b"9 9"), end_stream=True)
            one.h2.reset_stream(stream, ErrorCodes.CANCEL)
        await one.flush()
        assert (await one.call("/t.T/echo", b"still")).messages == [b"still"]
        assert server.wire.counts.started == 101
        await server.idle()


async def test_who_vanishes_leaves_nothing(server: Wired) -> None:
    async with peer(server.port) as one:
        waiting = one.open("/t.T/wait")
        await one.send(waiting, message(b""), end=True)
        sent_to = one.open("/t.T/pieces")
        await one.send(sent_to, message(b"300 100000"), end=True)
        sending = one.open("/t.T/size")
        await one.send(sending, message(bytes(1_000))[:500])
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        one.vanish()
    await server.idle()
    await server.alone()
    assert not server.errors
    assert not server.broken


async def test_an_answer_before_the_end_of_the_request(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/early")
        await one.send(stream, message(b"one") + message(bytes(100_000))[:50_000])
        answer = await one.answer(stream)
        assert (answer.messages, answer.status) == ([b"one"], 0)
        await one.until(lambda: answer.reset is not None)
        assert answer.reset == ErrorCodes.NO_ERROR
        assert (await one.call("/t.T/echo", b"still")).messages == [b"still"]


async def test_trailers_of_a_request_end_it(server: Wired) -> None:
    async with peer(server.port) as one:
        for number in range(3):  # headers and trailers share a table
            stream = one.open("/t.T/echo", ("n", "1"))
            await one.send(stream, message(b"x"))
            one.h2.send_headers(stream, [("checksum", f"{number}")], end_stream=True)
            await one.flush()
            assert (await one.answer(stream)).messages == [b"x"]


async def test_a_padded_request(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/size")
        body = message(bytes(MIB))
        for at in range(0, len(body), 10_000):
            piece = body[at : at + 10_000]
            await one.until(lambda: one.h2.local_flow_control_window(stream) > 10_300)
            one.h2.send_data(stream, piece, pad_length=200)
            await one.flush()
        one.h2.end_stream(stream)
        await one.flush()
        assert (await one.answer(stream)).messages == [b"%d" % MIB]


async def test_who_breaks_a_rule_is_told_which(server: Wired) -> None:
    async with peer(server.port) as one, peer(server.port) as other:
        stream = one.open("/t.T/wait")
        await one.send(stream, message(b""), end=True)
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        await one.write(b"\0\0\0\x05\0\0\0\0\x01")  # PUSH_PROMISE
        await one.until_closed()
        assert one.goaway is not None
        assert one.goaway.error_code == ErrorCodes.PROTOCOL_ERROR
        assert one.goaway.last_stream_id == stream
        await server.idle()
        assert (await other.call("/t.T/echo", b"still")).messages == [b"still"]


# The end.


async def stop_in_a_call(server: Wired, one: Peer, grace: float) -> tuple[int, asyncio.Task[None]]:
    """Stop in the middle of a call, and return once the peer has been told."""
    stream = one.open("/t.T/wait")
    await one.send(stream, message(b"late"), end=True)
    await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
    stopping = asyncio.create_task(server.wire.stop(grace))
    await one.until(lambda: one.goaway is not None)
    return stream, stopping


async def test_a_stop_answers_what_runs_and_takes_no_more(server: Wired) -> None:
    async with peer(server.port) as one:
        stream, stopping = await stop_in_a_call(server, one, 3_600)
        assert one.goaway is not None
        assert (one.goaway.error_code, one.goaway.last_stream_id) == (0, stream)
        ignored = one.open("/t.T/echo")
        await one.send(ignored, message(b"too late"), end=True)
        server.behaviours.go_on.set()
        assert (await one.answer(stream)).messages == [b"late"]
        await one.until_closed()
        assert not one.answers[ignored].over
        one.vanish()
        await stopping
    assert server.wire.counts.started == 1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_stop_ends_what_takes_too_long(server: Wired) -> None:
    async with peer(server.port) as one:
        stream, stopping = await stop_in_a_call(server, one, 0.01)
        assert (await one.answer(stream)).status == 14
        one.vanish()
        await stopping


async def test_a_stop_waits_for_handlers_that_clean_up(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/insist")
        await one.send(stream, message(b""), end=True)
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        stopping = asyncio.create_task(server.wire.stop(0.0))
        assert (await one.answer(stream)).status == 14
        assert not stopping.done()
        assert server.running == 1
        server.behaviours.go_on.set()
        one.vanish()
        await stopping
        assert server.running == 0


async def test_a_stop_does_not_wait_for_peers_that_stay(
    server: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_server, "FAREWELL_SECONDS", 0.05)
    monkeypatch.setattr(http2, "LINGER_SECONDS", 3_600)
    async with peer(server.port), peer(server.port) as other:
        await other.call("/t.T/echo", b"")
        await server.wire.stop(3_600)
        await server.alone()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_defect_of_ours_closes_the_connection_alone(
    monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    context, tls = contexts([http2.ALPN]) if encrypted else (None, None)
    async with wired(context) as server, peer(server.port, tls=tls) as other:
        await other.call("/t.T/echo", b"")
        async with peer(server.port, tls=tls) as one:
            stream = one.open("/t.T/wait")
            await one.send(stream, message(b""), end=True)
            await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
            with monkeypatch.context() as patched:
                patched.setattr(server.wire, "accept", broken)
                one.open("/t.T/echo", ("not", "known"))
                await one.flush()
                await one.until_closed()
            await server.idle()
        assert (await other.call("/t.T/echo", b"still")).messages == [b"still"]
        assert any(isinstance(each.get("exception"), RuntimeError) for each in server.broken)
