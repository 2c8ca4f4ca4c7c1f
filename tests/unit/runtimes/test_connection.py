from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.attachment import DockerAttachment, drive
from skybridge_server.runtimes.docker_engine.connection import CHUNK_BYTES
from tests.support.waiting import PATIENCE

MIB = 1 << 20


def frame(payload: bytes, stream: int = 1) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


class Pair:
    """An attachment, and the socket of the engine that it is attached to."""

    def __init__(self, attachment: DockerAttachment, engine: socket.socket) -> None:
        self.attachment = attachment
        self.engine = engine

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.engine, data)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.engine, MIB)

    def fill(self) -> int:
        """Write zeros until the other side takes no more; return how many bytes that was."""
        total = 0
        with suppress(BlockingIOError):
            while True:
                total += self.engine.send(bytes(32 * 1024))
        return total

    async def read(self) -> list[tuple[OutputStream, bytes]]:
        return [chunk async for chunk in self.attachment.output()]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, engine = socket.socketpair()
    for each in (ours, engine):
        each.setblocking(False)
    made = Pair(await drive(ours), engine)
    async with asyncio.timeout(PATIENCE):
        yield made
        await made.attachment.close()
    engine.close()


async def test_small_frames_at_hand_come_as_one_chunk(pair: Pair) -> None:
    await pair.send(frame(b"a") * 1000 + frame(b"b", 2) + frame(b"c"))
    pair.engine.shutdown(socket.SHUT_WR)
    chunks = await pair.read()
    assert chunks[-2:] == [(OutputStream.STDERR, b"b"), (OutputStream.STDOUT, b"c")]
    assert b"".join(data for _, data in chunks[:-2]) == b"a" * 1000


async def test_big_frames_come_in_chunks(pair: Pair) -> None:
    sending = asyncio.create_task(pair.send(frame(bytes(MIB))))
    sending.add_done_callback(lambda _: pair.engine.shutdown(socket.SHUT_WR))
    sizes = [len(data) for _, data in await pair.read()]
    assert sum(sizes) == MIB
    assert max(sizes) <= CHUNK_BYTES


async def test_what_was_read_with_the_answer_comes_first() -> None:
    ours, engine = socket.socketpair()
    with engine:
        ours.setblocking(False)
        attachment = await drive(ours, early=frame(b"early")[:10])
        engine.sendall(frame(b"early")[10:] + frame(b" bird"))
        engine.shutdown(socket.SHUT_WR)
        assert b"".join([data async for _, data in attachment.output()]) == b"early bird"
        await attachment.close()


async def test_a_reader_who_does_not_ask_holds_the_engine_back(pair: Pair) -> None:
    await pair.send(frame(bytes(64 * MIB))[:8])
    sent = 0
    while written := pair.fill():  # until some rounds of the loop take nothing more
        sent += written
        for _ in range(10):
            await asyncio.sleep(0)
    assert 0 < sent < 4 * MIB
    room = 0
    async for _ in pair.attachment.output():
        room = pair.fill()
        if room:
            break
    assert room


async def test_a_writer_waits_while_the_engine_takes_nothing(pair: Pair) -> None:
    writing = asyncio.create_task(pair.attachment.write(bytes(4 * MIB)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not writing.done()
    received = 0
    while received < 4 * MIB:
        received += len(await pair.receive())
    await writing


async def test_the_end_wakes_a_writer(pair: Pair) -> None:
    writing = asyncio.create_task(pair.attachment.write(bytes(4 * MIB)))
    await asyncio.sleep(0)
    pair.engine.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        await writing
    with pytest.raises(BrokenPipeError):
        await pair.attachment.write(b"more")


async def test_input_ends_and_output_goes_on(pair: Pair) -> None:
    await pair.attachment.write(b"all")
    await pair.attachment.close_input()
    assert await pair.receive() == b"all"
    assert await pair.receive() == b""
    await pair.send(frame(b"answer"))
    pair.engine.shutdown(socket.SHUT_WR)
    assert await pair.read() == [(OutputStream.STDOUT, b"answer")]


@pytest.mark.parametrize("broken", [frame(b"half")[:-2], b"HTTP/1.1 500"])
async def test_an_end_inside_a_frame_is_no_end_of_output(pair: Pair, broken: bytes) -> None:
    await pair.send(frame(b"whole") + broken)
    pair.engine.shutdown(socket.SHUT_WR)
    output = pair.attachment.output()
    _, data = await anext(output)
    assert data.startswith(b"whole")
    with pytest.raises(RuntimeUnavailableError, match="frame"):
        await anext(output)


async def test_closing_ends_a_reader(pair: Pair) -> None:
    reading = asyncio.create_task(pair.read())
    await asyncio.sleep(0)
    await pair.attachment.close()
    await pair.attachment.close()
    assert await reading == []
