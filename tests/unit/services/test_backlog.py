"""Executions that wait in the store for a place: nothing of them in memory, nothing lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from skybridge_server.errors import ResourceExhaustedError, StorageError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Scaling, Timeouts
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.slots import AHEAD
from tests.fakes.runtime import FakeProcess, sleep
from tests.unit.services.world import HELLO, World, key, minutes, output_of, settle, until, world_of

S = ExecutionState
MANY = 4 * AHEAD
ONE = Scaling(max_concurrency=1, max_queue_depth=1000)
FOREVER = minutes(600)


async def tell(process: FakeProcess) -> int:
    await process.write(await process.read())
    return 0


async def behind_one(world: World, count: int = MANY) -> tuple[ExecutionName, list[ExecutionName]]:
    """Start one execution that stays, and many that wait behind it; those say their number."""
    await world.deployed(program=sleep, scaling=ONE)
    running = await world.start()
    await world.reaches(running, S.RUNNING)
    world.runtime.containers.program = tell
    return running, [await world.start(input=b"%d" % n) for n in range(count)]


def in_memory(world: World) -> int:
    return sum(1 for _ in world.services.registry)


async def test_what_waits_behind_many_is_in_the_store_alone(world: World) -> None:
    running, waiting = await behind_one(world)
    assert in_memory(world) == 1 + AHEAD
    assert world.services.system.info().queued_executions == MANY
    last = await world.services.executions.get(waiting[-1])
    assert (last.state, last.position is None, last.lease.owner) == (S.QUEUED, False, "")
    await world.services.executions.cancel(running)
    order = []
    for name in waiting:
        ended = await world.ended(name)
        order.append((ended.start_time, output_of(world.journal(name))))
    assert order == [(time, b"%d" % n) for n, (time, _) in enumerate(sorted(order))]
    assert world.services.system.info().queued_executions == 0
    assert not world.services.backlog._deadlines._groups


async def test_who_waits_for_an_answer_comes_in_its_turn(world: World) -> None:
    running, waiting = await behind_one(world)
    caller = asyncio.create_task(world.execute(input=b"caller"))
    await settle()
    after = [await world.start(input=b"after") for _ in range(AHEAD)]
    await world.services.executions.cancel(running)
    answered = await caller
    assert answered.start_time is not None
    before = [(await world.ended(name)).start_time for name in waiting]
    behind = [(await world.ended(name)).start_time for name in after]
    assert max(filter(None, before)) <= answered.start_time <= min(filter(None, behind))


async def test_the_queue_of_a_function_is_bounded_to_the_last(world: World) -> None:
    depth = 2 * AHEAD
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1, max_queue_depth=depth))
    names = [await world.start() for _ in range(1 + depth)]
    with pytest.raises(ResourceExhaustedError) as refused:
        await world.start()
    assert refused.value.reason == "FUNCTION_QUEUE_FULL"
    assert refused.value.retry_after is not None
    await world.services.executions.cancel(names[-1])
    await world.start()
    with pytest.raises(ResourceExhaustedError):
        await world.start()


async def test_the_queue_of_the_server_is_bounded_to_the_last() -> None:
    async with world_of(max_queued_executions=MANY, max_concurrent_executions=1) as world:
        await behind_one(world)
        await world.deployed(FunctionName("default", "other"))
        with pytest.raises(ResourceExhaustedError) as refused:
            await world.start(FunctionName("default", "other"))
        assert refused.value.reason == "SERVER_QUEUE_FULL"


async def test_a_function_with_few_has_its_turn_beside_one_with_many() -> None:
    async with world_of(max_concurrent_executions=1) as world:
        running, waiting = await behind_one(world)
        other = await world.deployed(FunctionName("default", "other"))
        name = await world.start(other, input=b"x")
        await world.services.executions.cancel(running)
        first = await world.ended(name)
        assert first.start_time is not None
        times = [(await world.ended(each)).start_time for each in waiting]
        assert sum(time is not None and time < first.start_time for time in times) <= 1


async def test_one_that_could_not_be_stored_does_not_count(world: World) -> None:
    running, waiting = await behind_one(world)
    world.disk.failures["add"] = StorageError("no disk")
    with pytest.raises(StorageError):
        await world.start()
    del world.disk.failures["add"]
    assert world.services.system.info().queued_executions == MANY
    await world.services.executions.cancel(running)
    for name in waiting:
        assert (await world.ended(name)).state is S.SUCCEEDED


async def test_it_is_cancelled_watched_and_waited_for(world: World) -> None:
    running, waiting = await behind_one(world)
    services = world.services
    cancelled = await services.executions.cancel(waiting[-2])
    assert cancelled.state is S.CANCELLED
    assert services.system.info().queued_executions == MANY - 1
    watch = services.executions.watch(waiting[-1], after=0, heartbeat=timedelta(hours=1))

    async def collect() -> list[int]:
        return [item.sequence async for item in watch]

    watching = asyncio.create_task(collect())
    waited = asyncio.create_task(services.executions.wait(waiting[-1], FOREVER))
    await settle()
    await services.executions.cancel(running)
    assert (await waited).state is S.SUCCEEDED
    seen = await watching
    assert seen[-1] == len(world.journal(waiting[-1]))


async def test_all_go_with_their_function(world: World) -> None:
    _, waiting = await behind_one(world)
    function = await world.services.functions.get(HELLO)
    await world.services.executions.cancel_all(function.uid)
    for name in waiting:
        assert (await world.ended(name)).state is S.CANCELLED
    assert world.services.system.info().queued_executions == 0


async def test_who_waits_for_too_long_gives_up_in_the_store(world: World) -> None:
    timeouts = Timeouts(queue=minutes(1), execution=minutes(60))
    await world.deployed(program=sleep, scaling=ONE, timeouts=timeouts)
    names = [await world.start() for _ in range(MANY)]
    running, *waiting = names
    ended = [await world.ended(name) for name in waiting]
    assert {each.failure and each.failure.reason for each in ended} == {FailureReason.QUEUE_TIMEOUT}
    assert all("spec.timeouts.queue (60" in str(each.failure) for each in ended)
    assert world.active(running).journal.execution.state is S.RUNNING
    assert world.services.system.info().queued_executions == 0


async def test_time_in_the_store_counts(world: World) -> None:
    timeouts = Timeouts(queue=minutes(2), execution=minutes(60))
    await world.deployed(program=sleep, scaling=ONE, timeouts=timeouts)
    began = asyncio.get_running_loop().time()
    names = [await world.start() for _ in range(2 * AHEAD)]
    await asyncio.sleep(100)
    for name in names[1:AHEAD]:
        await world.services.executions.cancel(name)
    await until(lambda: world.services.registry.get(names[-1]))
    await world.ended(names[-1])
    assert asyncio.get_running_loop().time() - began < 125


async def test_a_repeat_finds_it(world: World) -> None:
    await behind_one(world)
    first = await world.start(key=key())
    assert world.services.registry.get(first) is None
    assert await world.start(key=key()) == first
    assert world.services.system.info().queued_executions == MANY + 1


async def test_a_store_that_fails_meanwhile_is_asked_again(world: World) -> None:
    running, waiting = await behind_one(world)
    claim_first = world.repositories.waiting.claim_first
    failures = 3

    async def fail(*args: object) -> object:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageError("no disk")
        return await claim_first(*args)  # type: ignore[arg-type]

    world.repositories.waiting.claim_first = fail  # type: ignore[method-assign, assignment]
    await world.services.executions.cancel(running)
    for name in waiting:
        assert (await world.ended(name)).state is S.SUCCEEDED
    assert failures < 0


async def test_a_process_that_dies_leaves_all_in_their_order(world: World) -> None:
    """Whatever the time of day: the clock may have been set back meanwhile."""
    _, waiting = await behind_one(world)
    new = await world.restart()
    await new.services.recovery.run()
    await new.services.backlog.idle()
    last = await new.start(input=b"%d" % MANY)
    running = next(a.name for a in new.services.registry if a.journal.started)
    await new.services.executions.cancel(running)
    ended = [await new.ended(name) for name in [*waiting, last]]
    starts = [each.start_time for each in ended if each.start_time]
    assert len(starts) == len(ended)
    assert starts == sorted(starts)
    assert new.services.system.info().queued_executions == 0
    await new.engines.close()


async def test_what_is_lost_on_the_way_does_not_count(world: World) -> None:
    running, waiting = await behind_one(world)
    world.services.backlog.revisions._known.clear()
    world.repositories.revisions.rows.clear()
    await world.services.executions.cancel(running)
    lost = await world.ended(waiting[-1])
    assert lost.failure is not None
    assert lost.failure.reason is FailureReason.LOST
    await until(lambda: not world.services.system.info().queued_executions)
