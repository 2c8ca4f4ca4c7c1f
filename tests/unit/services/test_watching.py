"""Following journals: from any position, at any pace, with signs of life in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skybridge_server.errors import NotFoundError, OutOfRangeError
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import KIB
from skybridge_server.models.journal import Event
from skybridge_server.models.names import ExecutionName
from skybridge_server.services import journal as journal_module
from skybridge_server.services.requests import Heartbeat
from tests.fakes.runtime import FakeProcess, Program, says, sleep
from tests.support.virtual_time import run
from tests.unit.services.world import World, settle, world_of

HOUR = timedelta(hours=1)


def speaks(pieces: int, size: int = 10, pause: float = 0.1) -> Program:
    async def program(process: FakeProcess) -> int:
        for number in range(pieces):
            await process.write(bytes([number % 256]) * size)
            await asyncio.sleep(pause)
        return 0

    return program


def watch(
    world: World, name: ExecutionName, after: int = 0, heartbeat: timedelta = HOUR
) -> AsyncIterator[Event | Heartbeat]:
    return world.services.executions.watch(name, after=after, heartbeat=heartbeat)


async def collect(items: AsyncIterator[Event | Heartbeat]) -> list[Event]:
    return [item async for item in items if isinstance(item, Event)]


@pytest.mark.parametrize("when", ["while it runs", "after its end"])
async def test_a_watch_goes_on_after_any_event(world: World, when: str) -> None:
    await world.deployed(program=speaks(5))
    name = await world.start()
    if when == "after its end":
        await world.ended(name)
    everything = await collect(watch(world, name))
    await world.ended(name)
    assert everything == world.journal(name)
    for after in range(len(everything) + 1):
        assert await collect(watch(world, name, after)) == everything[after:]


async def test_positions_past_the_end_are_refused(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    await world.reaches(name, ExecutionState.RUNNING)
    await settle()
    for position in (4, -1):
        with pytest.raises(OutOfRangeError, match="is not between 0 and 3") as refused:
            await collect(watch(world, name, position))
        assert refused.value.metadata == {"last_sequence": "3"}
    await world.services.executions.cancel(name)
    await world.ended(name)
    with pytest.raises(OutOfRangeError, match="is not between 0 and 5"):
        await collect(watch(world, name, 6))
    with pytest.raises(NotFoundError):
        await collect(watch(world, ExecutionName("default", "unknown")))


async def test_heartbeats_come_in_silence_and_repeat_the_last_sequence(world: World) -> None:
    async def program(process: FakeProcess) -> int:
        await asyncio.sleep(25)
        await process.write(b"x")
        await asyncio.sleep(15)
        return 0

    await world.deployed(program=program)
    name = await world.start()
    items = [item async for item in watch(world, name, heartbeat=timedelta(seconds=10))]
    kinds = [(type(item).__name__, item.sequence) for item in items]
    assert kinds == [
        *[("Event", sequence) for sequence in (1, 2, 3)],
        *[("Heartbeat", 3)] * 2,
        ("Event", 4),
        ("Heartbeat", 4),
        ("Event", 5),
    ]


async def test_a_reader_that_stalls_slows_nobody_and_misses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RECENT_BYTES", 100 * KIB)
    await world.deployed(program=speaks(100, size=20 * KIB, pause=0))
    name = await world.start()
    slow = watch(world, name)
    seen = [await anext(slow)]
    execution = await world.ended(name)
    assert execution.stdout_bytes == 2000 * KIB
    seen += [item async for item in slow]
    assert seen == world.journal(name)


async def test_thousands_may_watch(world: World) -> None:
    await world.deployed(program=speaks(3))
    name = await world.start()
    watches = [asyncio.create_task(collect(watch(world, name))) for _ in range(1000)]
    results = await asyncio.gather(*watches)
    assert all(result == world.journal(name) for result in results)


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.integers(0, 30),
    stalls=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=5),
    cut=st.integers(0, 34),
    recent=st.sampled_from([1, 2 * KIB, 1024 * KIB]),
)
def test_any_reader_sees_each_event_once(
    pieces: int, stalls: list[tuple[int, int]], cut: int, recent: int
) -> None:
    """However often it stalls, and when it comes back after a cut."""

    async def example() -> None:
        async with world_of() as world:
            await world.deployed(program=speaks(pieces))
            name = await world.start()
            pauses = dict(stalls)
            seen: list[Event] = []
            reading = watch(world, name)
            async for item in reading:
                assert isinstance(item, Event)
                seen.append(item)
                await asyncio.sleep(pauses.get(item.sequence, 0) / 10)
                if item.sequence == cut:
                    break
            if len(seen) == cut:
                seen += await collect(watch(world, name, cut))
            await world.ended(name)
            assert seen == world.journal(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "RECENT_BYTES", recent)
        run(example())


async def test_watching_ends_for_whom_it_was_left(world: World) -> None:
    await world.deployed(program=says())
    name = await world.start()
    reading = world.services.executions.watch(name, after=0, heartbeat=HOUR)
    await anext(reading)
    await reading.aclose()
    await world.ended(name)
