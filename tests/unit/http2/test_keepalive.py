"""Who is silent is asked, and who asks too often is told to calm down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from skybridge_server.http2.errors import BadConnectionError, ErrorCode
from skybridge_server.http2.keepalive import ANSWER_WITHIN, MAX_STRIKES, PING_AFTER, Keepalive


class Line:
    """A connection on which nothing happens by itself."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.answers = False
        self.is_cut = asyncio.Event()
        self.keepalive = Keepalive(asyncio.get_running_loop(), self.write, self.is_cut.set)

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if self.answers:
            self.keepalive.heard()


@pytest.fixture
async def line() -> AsyncGenerator[Line, None]:
    line = Line()
    yield line
    line.keepalive.close()


async def test_who_does_not_answer_is_cut_off(line: Line) -> None:
    began = asyncio.get_running_loop().time()
    await line.is_cut.wait()
    assert len(line.written) == 1
    passed = asyncio.get_running_loop().time() - began
    assert passed == pytest.approx(2 * PING_AFTER + ANSWER_WITHIN)


async def test_who_answers_stays(line: Line) -> None:
    line.answers = True
    await asyncio.sleep(100 * PING_AFTER)
    assert len(line.written) > 10
    assert not line.is_cut.is_set()


async def test_who_sends_is_not_asked(line: Line) -> None:
    for _ in range(1_000):
        await asyncio.sleep(PING_AFTER / 3)
        line.keepalive.heard()
    assert not line.written


async def test_pings_each_ten_seconds_are_fine_without_calls(line: Line) -> None:
    for turn in range(1_000):
        await asyncio.sleep(9.5 if turn % 2 else 10.5)  # as a network would have it
        line.keepalive.pinged()


async def test_pings_while_data_flows_are_fine(line: Line) -> None:
    for _ in range(1_000):
        line.keepalive.pinged()
        line.keepalive.sent()


async def test_who_pings_too_often_is_told_so_as_grpc_does(line: Line) -> None:
    for _ in range(1 + MAX_STRIKES):
        line.keepalive.pinged()
    with pytest.raises(BadConnectionError) as caught:
        line.keepalive.pinged()
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
    assert caught.value.reason == "too_many_pings"


async def test_nothing_happens_after_the_end(line: Line) -> None:
    line.keepalive.close()
    await asyncio.sleep(10 * PING_AFTER)
    assert not line.written
    assert not line.is_cut.is_set()
