"""Attached executions: stdin by position, one writer at a time, whatever the process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest

from skybridge_server.errors import (
    AbortedError,
    FailedPreconditionError,
    NotFoundError,
    OutOfRangeError,
)
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import KIB, Scaling, Timeouts
from skybridge_server.models.journal import Event, Output, Result
from skybridge_server.models.names import ExecutionName
from skybridge_server.services.attach import AttachSession, Item
from skybridge_server.services.executions import ATTACH_GRACE
from skybridge_server.services.requests import ExecutionRequest, Heartbeat, InputAck
from tests.fakes.runtime import FakeProcess, echo, says, sleep
from tests.unit.services.world import HELLO, World, output_of, settle

HOUR = timedelta(hours=1)


@asynccontextmanager
async def attached(world: World) -> AsyncGenerator[AttachSession, None]:
    session = await world.services.executions.attach(ExecutionRequest(HELLO, interactive=True))
    try:
        yield session
    finally:
        await session.close()


async def rest(session: AttachSession) -> list[Item]:
    async with aclosing(session.events(HOUR)) as events:
        return [item async for item in events]


def acks(items: list[Item]) -> list[tuple[int, bool]]:
    return [(i.committed_bytes, i.closed) for i in items if isinstance(i, InputAck)]


async def test_stdin_goes_in_and_output_comes_back(world: World) -> None:
    await world.deployed(program=echo)
    async with attached(world) as session:
        reading = asyncio.create_task(rest(session))
        await session.write(0, b"hello ", False)
        await session.write(6, b"world", True)
        items = await reading
    assert acks(items) == [(6, False), (11, True)]
    assert output_of([i for i in items if isinstance(i, Event)]) == b"hello world"
    assert isinstance(items[-1], Event)
    assert isinstance(items[-1].body, Result)
    assert [i.sequence for i in items] == sorted(i.sequence for i in items)
    await world.ended(session.name)


async def test_an_ack_never_names_an_event_that_was_not_yet_sent(world: World) -> None:
    await world.deployed(program=echo)
    async with attached(world) as session:
        writing = asyncio.create_task(session.write(0, b"x", True))
        await settle()
        last = 0
        for item in await rest(session):
            assert item.sequence == (last if isinstance(item, InputAck) else last + 1)
            last = item.sequence
        await writing


async def test_bytes_that_were_taken_are_left_out(world: World) -> None:
    await world.deployed(program=echo)
    async with attached(world) as session:
        reading = asyncio.create_task(rest(session))
        for offset, data in ((0, b"abc"), (0, b"abc"), (1, b"bcde"), (2, b"")):
            await session.write(offset, data, False)
        with pytest.raises(OutOfRangeError, match="5 bytes of stdin were taken") as refused:
            await session.write(6, b"x", False)
        assert refused.value.metadata == {"committed_bytes": "5"}
        await session.write(5, b"", True)
        items = await reading
    assert output_of([i for i in items if isinstance(i, Event)]) == b"abcde"


async def test_only_one_may_write_at_a_time(world: World) -> None:
    await world.deployed(program=echo)
    async with attached(world) as first:
        await first.write(0, b"a", False)
        second = await world.services.executions.resume(first.name, 0)
        with pytest.raises(AbortedError) as refused:
            await second.write(1, b"b", False)
        assert refused.value.reason == "STDIN_BUSY"
        await first.close()
        await second.write(1, b"b", True)
        items = await rest(second)
        await second.close()
    assert output_of([i for i in items if isinstance(i, Event)]) == b"ab"


async def test_what_was_handed_on_counts_also_for_a_caller_that_was_cut(world: World) -> None:
    """Or the next one would hand it on again."""
    read = asyncio.Event()

    async def reads_late(process: FakeProcess) -> int:
        await read.wait()
        return await echo(process)

    await world.deployed(program=reads_late)
    async with attached(world) as first:
        await first.write(0, b"a" * 256 * KIB, False)
        cut = asyncio.create_task(first.write(256 * KIB, b"b" * 64 * KIB, False))
        await settle()
        assert not cut.done()
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
    second = await world.services.executions.resume(first.name, 0)
    again = asyncio.create_task(second.write(256 * KIB, b"b" * 64 * KIB, True))
    await settle()
    read.set()
    items = await rest(second)
    await again
    await second.close()
    output = output_of([i for i in items if isinstance(i, Event)])
    assert output == b"a" * 256 * KIB + b"b" * 64 * KIB


async def test_a_process_that_closes_stdin_early(world: World) -> None:
    async def deaf(process: FakeProcess) -> int:
        await process.input.break_()
        return await sleep(process)

    await world.deployed(program=deaf)
    async with attached(world) as session:
        await session.write(0, b"a" * 100, False)
        await session.write(100, b"b" * 100, False)  # the caller does not know yet
        events = session.events(HOUR)
        items = [await anext(events) for _ in range(5)]
        await events.aclose()
    assert acks(items) == [(0, True), (0, True)]


async def test_a_process_that_ends_before_it_reads(world: World) -> None:
    await world.deployed(program=says(b"bye"))
    async with attached(world) as session:
        items = await rest(session)
        await session.write(0, b"too late", True)
        await session.signal("SIGINT")
    assert output_of([i for i in items if isinstance(i, Event)]) == b"bye"
    await world.ended(session.name)


@pytest.mark.parametrize("stage", ["queue", "create"])
async def test_an_execution_that_ends_before_its_process_runs(world: World, stage: str) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    if stage == "queue":
        await world.start()
    else:
        world.runtime.gate.hold("create")
    async with attached(world) as session:
        writing = asyncio.create_task(session.write(0, b"x", False))
        signalling = asyncio.create_task(session.signal("SIGINT"))
        await settle()
        assert not writing.done()
        await world.services.executions.cancel(session.name)
        await writing
        await signalling
        items = await rest(session)
    assert acks(items) == [(0, True)]
    assert (await world.ended(session.name)).state is ExecutionState.CANCELLED


async def test_signals_reach_the_process(world: World) -> None:
    async def program(process: FakeProcess) -> int:
        await process.signalled("SIGINT")
        return 7

    await world.deployed(program=program)
    async with attached(world) as session:
        await session.signal("SIGINT")
        await rest(session)
    assert (await world.ended(session.name)).exit_code == 7


async def test_it_lives_for_its_grace_without_a_caller(world: World) -> None:
    await world.deployed(program=sleep, timeouts=Timeouts(execution=timedelta(minutes=10)))
    async with attached(world) as session:
        pass  # left before its first event
    await asyncio.sleep(ATTACH_GRACE - 1)
    second = await world.services.executions.resume(session.name, 0)
    await asyncio.sleep(2 * ATTACH_GRACE)
    assert world.active(session.name).stop_reason is None
    await second.close()
    execution = await world.ended(session.name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.DISCONNECTED


async def test_a_resumed_session_sees_what_it_missed(world: World) -> None:
    await world.deployed(program=echo)
    async with attached(world) as first:
        await first.write(0, b"x", True)
        await world.ended(first.name)
    second = await world.services.executions.resume(first.name, 3)
    items = await rest(second)
    await second.write(0, b"late", False)
    await second.close()
    assert [item.sequence for item in items] == [4, 5]
    assert isinstance(items[0], Event)
    assert items[0].body == Output(items[0].body.stream, 0, b"x")  # type: ignore[union-attr]


async def test_what_cannot_be_resumed(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    with pytest.raises(FailedPreconditionError, match="WatchExecution"):
        await world.services.executions.resume(name, 0)
    with pytest.raises(NotFoundError):
        await world.services.executions.resume(ExecutionName("default", "unknown"), 0)
    async with attached(world) as session:
        second = await world.services.executions.resume(session.name, 99)
        with pytest.raises(OutOfRangeError):
            await rest(second)
        await second.close()


async def test_heartbeats(world: World) -> None:
    await world.deployed(program=sleep)
    async with attached(world) as session, aclosing(session.events(timedelta(seconds=5))) as events:
        items = [await anext(events) for _ in range(5)]
    assert [isinstance(item, Heartbeat) for item in items] == [False] * 3 + [True] * 2
