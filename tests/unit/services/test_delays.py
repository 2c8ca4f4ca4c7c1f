"""Executions with a time of their own: rows in the store until it comes, then like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.errors import FailedPreconditionError, InvalidArgumentError, StorageError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Contract, InputMode, Scaling
from skybridge_server.models.journal import Event
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.requests import Heartbeat
from tests.fakes.runtime import says, sleep
from tests.unit.services.world import SERVER_ID, World, key, output_of, settle, until, world_of

S = ExecutionState
HOUR = timedelta(hours=1)


async def delayed(world: World, by: timedelta = HOUR, **fields: Any) -> ExecutionName:
    return await world.start(start_time=world.clock.now() + by, **fields)


async def come_due(world: World, after: timedelta = HOUR) -> None:
    world.clock.ahead += after
    await world.services.delays.run_due()


async def test_it_waits_in_the_store_alone(world: World) -> None:
    await world.deployed(program=says(b"now"))
    name = await delayed(world)
    waiting = await world.services.executions.get(name)
    assert waiting.state is S.QUEUED
    assert waiting.due_time == waiting.not_before == world.clock.now() + HOUR
    assert world.services.registry.get(name) is None
    assert world.services.system.info().queued_executions == 0
    assert await world.services.delays.run_due() == waiting.not_before
    assert world.services.registry.get(name) is None

    await come_due(world)
    ended = await world.ended(name)
    assert (ended.state, ended.not_before) == (S.SUCCEEDED, None)
    assert ended.due_time == waiting.due_time
    assert output_of(world.journal(name)) == b"now"


async def test_a_time_that_has_passed_is_now(world: World) -> None:
    await world.deployed(program=says(b"now"))
    name = await delayed(world, -HOUR)
    assert world.services.registry.get(name)
    assert (await world.ended(name)).due_time is None


async def test_it_starts_by_itself(world: World) -> None:
    """The alarm is set for it, also when others wait longer."""
    await world.deployed(program=says(b"now"))
    await world.services.delays_alarm.open(world.services.delays.run_due)
    try:
        for hours in (5, 1, 3):
            name = await delayed(world, hours * HOUR)
            assert (await world.services.executions.wait(name, 10 * HOUR)).state is S.SUCCEEDED
    finally:
        await world.services.delays_alarm.close()


async def test_it_survives_a_restart(world: World) -> None:
    await world.deployed(program=says(b"now"))
    name = await delayed(world)
    new = await world.restart()
    await new.services.recovery.run()
    assert new.services.registry.get(name) is None
    new.clock.ahead = world.clock.ahead
    await come_due(new)
    assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


async def test_what_was_claimed_by_a_process_that_died_goes_on(world: World) -> None:
    await world.deployed(program=says(b"now"))
    name = await delayed(world)
    assert await world.repositories.waiting.claim(name, SERVER_ID, world.clock.now())
    new = await world.restart()
    await new.services.recovery.run()
    assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


async def test_it_can_be_cancelled(world: World) -> None:
    await world.deployed(program=sleep)
    name = await delayed(world)
    cancelled = await world.services.executions.cancel(name)
    assert cancelled.state is S.CANCELLED
    assert cancelled.failure is not None
    assert cancelled.failure.reason is FailureReason.CANCELLED
    assert not world.runtime.containers.created
    assert await world.ended(name) == cancelled


async def test_a_cancel_that_meets_its_time_wins_or_stops_it(world: World) -> None:
    await world.deployed(program=sleep)
    name = await delayed(world)
    world.clock.ahead += HOUR
    due = asyncio.create_task(world.services.delays.run_due())
    cancelling = asyncio.create_task(world.services.executions.cancel(name))
    await asyncio.gather(due, cancelling)
    assert (await world.ended(name)).state is S.CANCELLED


async def test_a_watch_begins_before_its_time(world: World) -> None:
    await world.deployed(program=says(b"now"))
    name = await delayed(world)
    items = world.services.executions.watch(name, after=0, heartbeat=timedelta(seconds=1))

    async def collect(items: AsyncGenerator[Event | Heartbeat]) -> list[Event | Heartbeat]:
        return [item async for item in items]

    watching = asyncio.create_task(collect(items))
    await asyncio.sleep(2.5)
    await come_due(world)
    seen = await watching
    assert [item for item in seen if isinstance(item, Event)] == world.journal(name)
    assert [item.sequence for item in seen if isinstance(item, Heartbeat)][:2] == [1, 1]


async def test_a_repeat_returns_the_first(world: World) -> None:
    await world.deployed()
    first = await delayed(world, key=key())
    assert await delayed(world, key=key()) == first
    await come_due(world)
    await world.ended(first)
    assert await delayed(world, key=key()) == first


async def test_what_can_never_run_is_refused_at_once(world: World) -> None:
    await world.create()
    with pytest.raises(FailedPreconditionError, match="never deployed"):
        await delayed(world)
    await world.deploy()
    env = await world.deployed(
        FunctionName("default", "env"), contract=Contract(input=InputMode.ENV)
    )
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        await world.start(env, start_time=world.clock.now() + HOUR, input=b"\xff")


async def test_no_more_come_than_the_queue_has_room_for() -> None:
    async with world_of(max_concurrent_executions=1, max_queued_executions=2) as world:
        starting = world.runtime.gate.hold("start")
        await world.deployed(program=says())
        names = [await delayed(world) for _ in range(5)]
        world.clock.ahead += HOUR
        again = await world.services.delays.run_due()
        info = world.services.system.info()
        assert (info.running_executions, info.queued_executions) == (1, 2)
        assert again is not None
        assert timedelta(0) < again - world.clock.now() <= timedelta(seconds=1)
        starting.set()
        await until(lambda: not world.services.system.info().running_executions)
        assert await world.services.delays.run_due() is None
        for name in names:
            assert (await world.ended(name)).state is S.SUCCEEDED


async def test_a_function_with_a_full_queue_takes_them_all_the_same(world: World) -> None:
    await world.deployed(program=says(), scaling=Scaling(max_concurrency=1, max_queue_depth=0))
    names = [await delayed(world) for _ in range(3)]
    await come_due(world)
    for name in names:
        assert (await world.ended(name)).state is S.SUCCEEDED


async def test_what_the_store_could_not_tell_is_launched_the_next_time(world: World) -> None:
    await world.deployed(program=says())
    name = await delayed(world)
    world.clock.ahead += HOUR
    get = world.repositories.revisions.get
    world.services.backlog.revisions._known.clear()

    async def fail(_: object) -> None:
        raise StorageError("no disk")

    world.repositories.revisions.get = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageError):
        await world.services.delays.run_due()
    world.repositories.revisions.get = get  # type: ignore[method-assign]
    await settle()
    await world.services.delays.run_due()
    assert (await world.ended(name)).state is S.SUCCEEDED
