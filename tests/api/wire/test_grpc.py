"""gRPC's own rules: statuses, deadlines, metadata, compression, sizes."""

from __future__ import annotations

import ast
import asyncio
import base64
import zlib
from typing import Any

import grpc
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from skybridge_server.api.wire.messages import MAX_MESSAGE_BYTES
from tests.api.wire.wired import SECRET, Wired
from tests.support.http2_peer import Answer, Pairs, call_headers, message, peer
from tests.support.waiting import PATIENCE

GZIP = 16 + zlib.MAX_WBITS


def status(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


async def ask(
    server: Wired, path: str, body: bytes, *headers: tuple[str, str], end: bool = True
) -> Answer:
    """Send a body as it is, and return the answer."""
    async with peer(server.port) as one:
        stream = one.open(path, *headers)
        await one.send(stream, body, end=end)
        return await one.answer(stream)


# Statuses.


async def test_methods_that_there_are_not(server: Wired) -> None:
    answer = await ask(server, "/t.T/nothing", message(b""))
    assert answer.status == status(grpc.StatusCode.UNIMPLEMENTED)
    assert "/t.T/nothing" in answer.detail
    assert server.wire.counts.started == 0


async def test_defects_are_logged_whole_and_told_blank(server: Wired) -> None:
    answer = await ask(server, "/t.T/fail", message(b""))
    assert (answer.status, answer.detail) == (status(grpc.StatusCode.INTERNAL), "internal error")
    assert SECRET not in repr(answer)
    (entry,) = [e for e in server.logged if e["event"] == "call failed"]
    assert SECRET in str(entry["exc_info"])


async def test_an_answer_of_the_wrong_type_is_a_defect(server: Wired) -> None:
    answer = await ask(server, "/t.T/wrong", message(b""))
    assert (answer.status, answer.detail) == (status(grpc.StatusCode.INTERNAL), "internal error")
    assert server.errors == {"call failed": 1}


async def test_messages_of_errors_may_hold_anything(server: Wired) -> None:
    text = "50 % ümläut\nand a line \x7f"
    answer = await ask(server, "/t.T/refuse", message(text.encode()))
    assert answer.status == status(grpc.StatusCode.ABORTED)
    assert answer.detail == "50 %25 %C3%BCml%C3%A4ut%0Aand a line %7F"
    assert ("last-bin", "AA") in answer.headers
    async with grpc.aio.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/t.T/refuse")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(text.encode())
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, text)
    trailers: Any = caught.value.trailing_metadata()
    assert trailers["last-bin"] == b"\0"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "no request message"),
        (message(b"one") * 2, "more than one request message"),
        (message(b"one")[:-1], "the last message is not complete"),
        (message(b"one")[:3], "the last message is not complete"),
    ],
)
async def test_requests_that_are_not_one_message(server: Wired, body: bytes, detail: str) -> None:
    answer = await ask(server, "/t.T/echo", body)
    assert (answer.status, answer.detail) == (status(grpc.StatusCode.INTERNAL), detail)
    await server.idle()


async def test_a_stream_of_requests_that_ends_in_the_middle(server: Wired) -> None:
    answer = await ask(server, "/t.T/chat", message(b"one") + message(b"two")[:-1])
    assert answer.status == status(grpc.StatusCode.INTERNAL)
    await asyncio.wait_for(server.idle(), PATIENCE)


async def test_messages_may_come_byte_by_byte(server: Wired) -> None:
    async with peer(server.port) as one:
        stream = one.open("/t.T/chat")
        for byte in message(b"one") + message(b"") + message(b"two"):
            one.h2.send_data(stream, bytes((byte,)))
            one.h2.send_data(stream, b"")
        await one.flush()
        one.h2.end_stream(stream)
        await one.flush()
        answer = await one.answer(stream)
    assert answer.messages == [b"one", b"", b"two"]


# Headers.


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/grpc-web+proto", "application/grpcs", "application/json", ""],
)
async def test_what_is_not_grpc(server: Wired, content_type: str) -> None:
    answer = await ask(server, "/t.T/echo", b"")
    headers = [
        (k, content_type if k == "content-type" else v) for k, v in call_headers("/t.T/echo")
    ]
    async with peer(server.port, checks=False) as one:
        answer = await one.answer(await opened(one, headers))
    assert dict(answer.headers)[":status"] == "415"
    assert answer.reset is None


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;v=1"])
async def test_what_is_grpc_as_well(server: Wired, content_type: str) -> None:
    async with peer(server.port) as one:
        stream = one.open_with([*call_headers("/t.T/echo")[:-1], ("content-type", content_type)])
        await one.send(stream, message(b"x"), end=True)
        assert (await one.answer(stream)).messages == [b"x"]


async def opened(one: Any, headers: Pairs) -> int:
    stream: int = one.open_with(headers, end=True)
    await one.flush()
    return stream


GOOD = call_headers("/t.T/echo")


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "GET"), *GOOD[1:]],
        GOOD[1:],
        [GOOD[0], *GOOD[2:]],
        [*GOOD[:2], *GOOD[3:]],
        [*GOOD[:1], *GOOD],
        [*GOOD, (":authority", "late")],
        [(":status", "200"), *GOOD],
        [*GOOD, ("connection", "close")],
        [*GOOD, ("transfer-encoding", "chunked")],
        [*GOOD, ("Upper", "1")],
        [*GOOD, ("spa ce", "1")],
        [*GOOD, ("", "1")],
        [*GOOD, ("n", "a\nb")],
        [*GOOD, ("n", "a\0b")],
        [*GOOD, ("n-bin", "?")],
        [*GOOD, ("n-bin", "A")],
        [*GOOD, ("grpc-timeout", "1")],
        [*GOOD, ("grpc-timeout", "123456789S")],
        [*GOOD, ("grpc-timeout", "-1S")],
        [*GOOD, ("grpc-timeout", "")],
    ],
)
async def test_malformed_requests_are_reset_and_others_go_on(server: Wired, headers: Pairs) -> None:
    async with peer(server.port, checks=False) as one:
        for _ in range(2):  # also when its block is known
            answer = await one.answer(await opened(one, headers))
            assert answer.reset == ErrorCodes.PROTOCOL_ERROR
        assert (await one.call("/t.T/echo", b"still")).messages == [b"still"]


async def test_metadata_both_ways(server: Wired) -> None:
    sent: list[Any] = [
        ("a", "1"),
        ("a", "2"),
        ("b-bin", b"\x00\xff"),
        ("b-bin", b""),
        ("user", "ok"),
    ]
    async with grpc.aio.insecure_channel(server.address) as channel:
        method: Any = channel.unary_unary("/t.T/metadata")
        call = method(b"", metadata=sent)
        first = await call.initial_metadata()
        assert (first["first"], first["first-bin"]) == ("1", b"\xff\x00")
        seen = ast.literal_eval((await call).decode())
    assert [pair for pair in seen if pair in sent] == sent
    assert {key for key, _ in seen} == {"a", "b-bin", "user", "user-agent"}


async def test_binary_metadata_that_was_joined_on_the_way(server: Wired) -> None:
    padded = base64.b64encode(b"one").decode()
    answer = await ask(
        server, "/t.T/metadata", message(b""), ("n-bin", f"{padded},dHdvIQ,dHdvIQ==")
    )
    assert ast.literal_eval(answer.messages[0].decode()) == (
        ("n-bin", b"one"),
        ("n-bin", b"two!"),
        ("n-bin", b"two!"),
    )


async def test_headers_that_are_too_large_are_refused(server: Wired) -> None:
    async with peer(server.port) as one:
        one.open("/t.T/echo", *((f"n{n}", "x" * 1_000) for n in range(90)))
        await one.flush()
        await one.until_closed()
        assert one.goaway is not None
        assert one.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    async with grpc.aio.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/t.T/echo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=[(f"n{n}", "x" * 1_000) for n in range(20)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await call(b"still", metadata=[(f"n{n}", "x" * 1_000) for n in range(14)])


# Deadlines.


@pytest.mark.parametrize("timeout", ["1n", "20u", "20m", "0S"])
async def test_a_deadline_is_told_and_ends_the_handler(server: Wired, timeout: str) -> None:
    answer = await ask(server, "/t.T/wait", message(b""), ("grpc-timeout", timeout))
    assert answer.status == status(grpc.StatusCode.DEADLINE_EXCEEDED)
    await server.idle()


async def test_a_deadline_before_the_request_is_whole(server: Wired) -> None:
    answer = await ask(server, "/t.T/echo", message(b"x")[:3], ("grpc-timeout", "20m"), end=False)
    assert answer.status == status(grpc.StatusCode.DEADLINE_EXCEEDED)
    await server.idle()


@pytest.mark.parametrize(("path", "body"), [("/t.T/large", b"90000"), ("/t.T/pieces", b"1 90000")])
async def test_a_deadline_in_the_middle_of_an_answer(server: Wired, path: str, body: bytes) -> None:
    async with peer(server.port, {SettingCodes.INITIAL_WINDOW_SIZE: 100}) as one:
        one.credits = False
        for timeout in ("50m", "1S", "10S", "60S"):  # one is enough for the machine to begin
            stream = one.open(path, ("grpc-timeout", timeout))
            await one.send(stream, message(body), end=True)
            answer = await one.answer(stream)
            if answer.body:
                break
        assert len(answer.body) == 100
        assert answer.status == status(grpc.StatusCode.DEADLINE_EXCEEDED)
        assert ":status" not in dict(answer.trailers)
        await server.idle()


async def test_deadlines_that_are_far(server: Wired) -> None:
    answer = await ask(server, "/t.T/echo", message(b"x"), ("grpc-timeout", "99999999H"))
    assert answer.messages == [b"x"]


# Compression.


def squeezed(data: bytes, bits: int = GZIP) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(("name", "bits"), [("gzip", GZIP), ("deflate", zlib.MAX_WBITS)])
@pytest.mark.parametrize("path", ["/t.T/echo", "/t.T/chat"])
async def test_compressed_messages(server: Wired, path: str, name: str, bits: int) -> None:
    body = message(squeezed(b"text " * 9, bits), packed=True)
    answer = await ask(server, path, body, ("grpc-encoding", name))
    assert (answer.messages, answer.status) == ([b"text " * 9], 0)
    plain = await ask(server, path, message(b"not packed"), ("grpc-encoding", name))
    assert plain.messages == [b"not packed"]
    empty = await ask(server, path, message(b"", packed=True), ("grpc-encoding", name))
    assert empty.messages == [b""]


@pytest.mark.parametrize("path", ["/t.T/echo", "/t.T/chat"])
@pytest.mark.parametrize(
    ("encoding", "data", "code"),
    [
        ("gzip", b"no gzip", grpc.StatusCode.INTERNAL),
        ("gzip", squeezed(b"text")[:-9], grpc.StatusCode.INTERNAL),
        ("identity", b"text", grpc.StatusCode.INTERNAL),
        ("snappy", b"text", grpc.StatusCode.UNIMPLEMENTED),
        ("gzip", squeezed(bytes(MAX_MESSAGE_BYTES + 1)), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_messages_that_cannot_be_unpacked(
    server: Wired, path: str, encoding: str, data: bytes, code: grpc.StatusCode
) -> None:
    answer = await ask(server, path, message(data, packed=True), ("grpc-encoding", encoding))
    assert answer.status == status(code)
    assert dict(answer.headers)["grpc-accept-encoding"] == "identity,deflate,gzip"
    await server.idle()
    assert not server.errors


async def test_bombs_are_unpacked_one_by_one(server: Wired) -> None:
    """A window may hold many; none is unpacked before its turn."""
    bomb = message(squeezed(bytes(MAX_MESSAGE_BYTES)), packed=True)
    async with peer(server.port) as one:
        stream = one.open("/t.T/deaf", ("grpc-encoding", "gzip"))
        await one.send(stream, bomb * 20)
        await one.call("/t.T/echo", b"")  # all have come
        one.h2.reset_stream(stream)
        await one.flush()
        await server.idle()


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compression_of_grpc(server: Wired, kind: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(server.address, compression=kind) as channel:
        call: Any = channel.unary_unary("/t.T/echo")
        assert await call(b"x" * 100_000) == b"x" * 100_000


# Sizes.


async def test_a_message_that_says_it_is_too_large_is_not_read(server: Wired) -> None:
    body = b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")
    for path in ("/t.T/echo", "/t.T/chat"):
        answer = await ask(server, path, body, end=False)
        assert answer.status == status(grpc.StatusCode.RESOURCE_EXHAUSTED)
    await server.idle()


async def test_answers_that_are_too_large_are_the_callers_to_know(server: Wired) -> None:
    size = b"%d" % (MAX_MESSAGE_BYTES + 1)
    for path, body in (("/t.T/large", size), ("/t.T/pieces", b"1 " + size)):
        answer = await ask(server, path, message(body))
        assert answer.status == status(grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert str(MAX_MESSAGE_BYTES) in answer.detail
    assert not server.errors


# The clients of grpc.


async def test_all_kinds_of_calls(server: Wired) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        echo: Any = channel.unary_unary("/t.T/echo")
        assert await echo(b"one") == b"one"
        assert await asyncio.gather(*(echo(b"%d" % n) for n in range(100))) == [
            b"%d" % n for n in range(100)
        ]
        pieces: Any = channel.unary_stream("/t.T/pieces")
        assert [piece async for piece in pieces(b"3 5")] == [bytes(5)] * 3
        early: Any = channel.stream_unary("/t.T/early")
        assert await early(iter([b"first", b"second"])) == b"first"
        chat: Any = channel.stream_stream("/t.T/chat")
        assert [answer async for answer in chat(iter([b"a", b"b"]))] == [b"a", b"b"]
    await server.alone()


async def test_a_client_with_threads(server: Wired) -> None:
    def talk() -> list[bytes]:
        with grpc.insecure_channel(server.address) as channel:
            echo: Any = channel.unary_unary("/t.T/echo")
            pieces: Any = channel.unary_stream("/t.T/pieces")
            return [echo(b"one", timeout=PATIENCE), *pieces(b"2 3", timeout=PATIENCE)]

    assert await asyncio.to_thread(talk) == [b"one", bytes(3), bytes(3)]


async def test_much_data_brings_no_ping_strikes(server: Wired) -> None:
    """grpc measures the line with PINGs while data comes."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        pieces: Any = channel.unary_stream("/t.T/pieces")
        size: Any = channel.unary_unary("/t.T/size")
        for _ in range(3):
            assert len([piece async for piece in pieces(b"50 200000")]) == 50
            assert await size(bytes(4 << 20)) == b"%d" % (4 << 20)
        assert len(server.wire.connections) == 1
    assert not [entry for entry in server.logged if entry["event"] == "connection ended"]


async def test_a_client_that_cancels(server: Wired) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        wait: Any = channel.unary_unary("/t.T/wait")
        call = wait(b"")
        await asyncio.wait_for(server.behaviours.entered.wait(), PATIENCE)
        call.cancel()
        await asyncio.wait_for(server.behaviours.cleaned.wait(), PATIENCE)
        await server.idle()


async def test_a_client_calls_again_after_a_restart_of_its_connection(server: Wired) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        echo: Any = channel.unary_unary("/t.T/echo")
        for _ in range(3):
            assert await echo(b"x", wait_for_ready=True, timeout=PATIENCE) == b"x"
            server.connection.drain()
            await server.alone()
    assert server.wire.counts.succeeded == 3
