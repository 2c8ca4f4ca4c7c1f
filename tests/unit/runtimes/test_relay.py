"""The relay over the real program, which here runs in the network of the tests."""

from __future__ import annotations

import asyncio
import io
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine.relay_frames import (
    WINDOW,
    Frame,
    Kind,
    RelayParser,
    data,
    word,
)
from skybridge_server.runtimes.docker_engine.sandbox import Sandbox
from tests.support.ports import free_port
from tests.support.waiting import until
from tests.unit.runtimes.sandbox_process import ProcessAttachment

PATIENCE = 30.0
BIG = 1 << 20


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    made = Sandbox("name", "id", await ProcessAttachment.start(tmp_path))
    async with asyncio.timeout(PATIENCE):
        await made.settle()
        yield made
        await made.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def exchange(sock: socket.socket, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(sent)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def until_forgotten(sandbox: Sandbox) -> None:
    async def forgotten() -> bool:
        return not sandbox.relay._connections

    await until(forgotten, "connections to be over")


async def test_bytes_go_through_both_ways_at_once(sandbox: Sandbox, echo: int) -> None:
    sent = [bytes([n]) * (BIG if n == 0 else 1000 * n) for n in range(8)]

    async def visit(each: bytes) -> bytes:
        return await exchange(await sandbox.relay.connect(echo), each)

    assert await asyncio.gather(*map(visit, sent)) == sent
    await until_forgotten(sandbox)


async def test_who_connects_from_inside(sandbox: Sandbox) -> None:
    port = free_port()
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = await sandbox.relay.listen(port, accepted.put_nowait)
    function = asyncio.create_task(_visit(port, b"hello"))
    assert await exchange(await accepted.get(), b"welcome") == b"hello"
    assert await function == b"welcome"

    with pytest.raises(OSError, match="in use"):
        await sandbox.relay.listen(port, accepted.put_nowait)
    listener.close()
    listener.close()
    again = await sandbox.relay.listen(port, accepted.put_nowait)
    again.close()
    await until_forgotten(sandbox)


async def _visit(port: int, sent: bytes) -> bytes:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await exchange(sock, sent)


async def test_what_was_accepted_as_the_listener_closed(sandbox: Sandbox) -> None:
    await sandbox.relay.take(Frame(1 << 31, Kind.ACCEPTED, 4711, b""))
    assert sandbox.relay._connections == {}


async def test_who_leaves_without_reading(sandbox: Sandbox) -> None:
    ended = asyncio.Event()

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        writer.close()
        ended.set()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        connection = await sandbox.relay.connect(server.sockets[0].getsockname()[1])
        assert await asyncio.get_running_loop().sock_recv(connection, 1)
        (carried,) = sandbox.relay._connections.values()

        async def full() -> bool:
            return carried._full

        await until(full, "more to come than is read")
        assert carried._transport.get_write_buffer_size() <= 2 * WINDOW  # what is held back
        connection.close()
        await ended.wait()
        await until_forgotten(sandbox)


async def test_a_program_that_is_killed_ends_its_connections(sandbox: Sandbox, echo: int) -> None:
    port = free_port()
    await sandbox.relay.listen(port, socket.socket.close)
    reader, writer = await asyncio.open_connection(sock=await sandbox.relay.connect(echo))
    writer.write(b"alive")
    assert await reader.readexactly(5) == b"alive"
    attachment = sandbox._attachment
    assert isinstance(attachment, ProcessAttachment)
    attachment.process.kill()
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(RuntimeUnavailableError, match="its sandbox has ended"):
        await sandbox.relay.connect(echo)
    with pytest.raises(RuntimeUnavailableError):
        await sandbox.relay.listen(free_port(), socket.socket.close)


async def test_who_waits_as_it_ends_and_who_does_not_wait_any_more(
    sandbox: Sandbox, echo: int
) -> None:
    sandbox._writer.cancel()  # so that nothing is ever answered
    waiting = [asyncio.create_task(sandbox.relay.connect(echo)) for _ in range(2)]

    async def asked() -> bool:
        return len(sandbox.relay._opening) == 2

    await until(asked, "both to wait")
    waiting[0].cancel()
    sandbox.relay.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, RuntimeUnavailableError]
    assert not sandbox.relay._connections
    assert not sandbox.relay._opening


async def test_what_is_no_frame_ends_it(sandbox: Sandbox) -> None:
    ended = asyncio.Event()
    sandbox.on_end(ended.set)
    attachment = sandbox._attachment
    assert isinstance(attachment, ProcessAttachment)
    assert attachment.process.stdout
    attachment.process.stdout.feed_data(b"\xff" * 8)
    await ended.wait()


FRAMES = st.lists(
    st.one_of(
        st.builds(
            Frame,
            st.integers(0, 2**32 - 1),
            st.sampled_from([kind for kind in Kind if kind not in (Kind.DATA, Kind.REPORT)]),
            st.integers(0, 2**24 - 1),
            st.just(b""),
        ),
        st.builds(
            lambda number, payload: Frame(number, Kind.DATA, len(payload), payload),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=50),
        ),
    ),
    max_size=10,
)


@given(FRAMES, st.lists(st.integers(5, 40), min_size=1, max_size=5))
def test_frames_may_be_cut_anywhere(frames: list[Frame], cuts: list[int]) -> None:
    whole = b"".join(
        data(frame.connection, frame.payload)
        if frame.kind is Kind.DATA
        else word(frame.connection, frame.kind, frame.value)
        for frame in frames
    )
    parser = RelayParser()
    parsed: list[Frame] = []
    rest = io.BytesIO(whole)
    for size in itertools.cycle(cuts):
        if not (piece := rest.read(size)):
            break
        parsed += parser.feed(piece)
    assert parsed == frames
