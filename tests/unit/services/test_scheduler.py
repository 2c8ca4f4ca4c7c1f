"""The scheduler in virtual time: what fires, when, and what becomes of what cannot."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, MutableMapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from skybridge_server.errors import FailedPreconditionError, NotFoundError, StorageError
from skybridge_server.models.executions import Execution, ExecutionState, FailureReason
from skybridge_server.models.functions import Scaling, Timeouts
from skybridge_server.models.names import ScheduleName
from skybridge_server.models.schedules import (
    OverlapPolicy,
    Schedule,
    ScheduleOptions,
    ScheduleSpec,
)
from skybridge_server.services import due_times
from skybridge_server.services.firing import DUE_TIME_LABEL, SCHEDULE_LABEL
from tests.fakes.runtime import FakeProcess
from tests.unit.services.world import EPOCH, HELLO, World, key, world_of

EACH = ScheduleName("default", "each")
MINUTE = timedelta(minutes=1)
HOURLY = ScheduleSpec(HELLO, cron="0 * * * *")
State = ExecutionState


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with world_of() as made:
        yield made
        await made.services.scheduler.close()


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def every(interval: timedelta = MINUTE, **changes: Any) -> ScheduleSpec:
    return ScheduleSpec(HELLO, interval=interval, **changes)


async def for_ever(_: FakeProcess) -> int:
    await asyncio.Event().wait()
    return 0


async def deploy_for_ever(world: World, **scaling: Any) -> None:
    """Deploy a function that runs until it is stopped."""
    timeouts = Timeouts(queue=timedelta(hours=1), execution=timedelta(hours=1))
    await world.deployed(program=for_ever, timeouts=timeouts, scaling=Scaling(**scaling))


async def create(world: World, spec: ScheduleSpec, name: ScheduleName = EACH) -> Schedule:
    return await world.services.schedules.create(name, spec, key=None, validate_only=False)


async def get(world: World, name: ScheduleName = EACH) -> Schedule:
    return await world.services.schedules.get(name)


async def pass_time(span: timedelta) -> None:
    """Let time pass, and a little more for what happens at its end."""
    await asyncio.sleep(span.total_seconds() + 0.5)


def executions(world: World) -> list[Execution]:
    """Return all executions, in the order in which they were stored."""
    return [*world.repositories.executions.rows.values()]


def dues(world: World) -> list[datetime]:
    """Return the due times that fired, in order of firing."""
    return [datetime.fromisoformat(e.labels[DUE_TIME_LABEL]) for e in executions(world)]


def minutes_after(*counts: int) -> list[datetime]:
    return [EPOCH + count * MINUTE for count in counts]


async def set_enabled(world: World, enabled: bool) -> None:
    await world.services.functions.set_enabled(HELLO, enabled, etag="", key=None)


class TestFiring:
    async def test_each_due_time_fires_once_and_in_time(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        await world.services.scheduler.open()
        await pass_time(3 * MINUTE)
        assert dues(world) == minutes_after(1, 2, 3)
        found = await get(world)
        assert found.last_execution == executions(world)[-1].name
        assert (found.last_due_time, found.next_time) == tuple(minutes_after(3, 4))
        assert (found.fired_count, found.skipped_count, found.missed_count) == (3, 0, 0)
        assert found.state_message == ""

    async def test_executions_are_what_the_schedule_says(self, world: World) -> None:
        await world.deployed()
        options = ScheduleOptions(seconds(7), {"team": "red"})
        await create(world, every(input=b"in", options=options))
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        (execution,) = executions(world)
        assert execution.function == HELLO
        assert execution.timeout == seconds(7)
        assert execution.labels == {
            "team": "red",
            SCHEDULE_LABEL: "each",
            DUE_TIME_LABEL: "2026-01-31T12:01:00Z",
        }
        assert await world.repositories.executions.get_input(execution.name) == b"in"
        assert (await world.ended(execution.name)).state is State.SUCCEEDED

    async def test_schedules_do_not_wait_for_each_other(self, world: World) -> None:
        await world.deployed()
        names = [ScheduleName("default", f"s{n}") for n in range(30)]
        for name in names:
            await create(world, every(MINUTE), name)
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        counted = Counter(e.labels[SCHEDULE_LABEL] for e in executions(world))
        assert counted == dict.fromkeys((name.schedule for name in names), 1)

    async def test_jitter_moves_the_firing_and_not_the_due_time(self, world: World) -> None:
        await world.deployed()
        schedule = await create(world, every(jitter=MINUTE))
        amount = due_times.jitter(schedule, EPOCH + MINUTE)
        await world.services.scheduler.open()
        await asyncio.sleep((MINUTE + amount).total_seconds() - 0.01)
        assert dues(world) == []
        await asyncio.sleep(0.02)
        assert dues(world) == minutes_after(1)

    async def test_a_new_schedule_and_a_changed_one_wake_the_scheduler(self, world: World) -> None:
        await world.deployed()
        await world.services.scheduler.open()
        await asyncio.sleep(1)
        await create(world, HOURLY)
        await asyncio.sleep(1)
        await world.services.schedules.update(
            EACH, lambda _: every(), etag="", key=None, validate_only=False
        )
        await pass_time(MINUTE)
        assert dues(world) == minutes_after(1)

    async def test_waiting_costs_no_look_at_the_store(self, world: World) -> None:
        await world.deployed()
        await create(world, HOURLY)
        looks: Counter[str] = Counter()
        schedules = world.repositories.schedules
        for method in ("due", "next_wake", "get", "settle"):
            _count_calls(schedules, method, looks)
        await world.services.scheduler.open()
        await asyncio.sleep(3599)
        assert looks == {"due": 1, "next_wake": 1}
        await asyncio.sleep(2)
        assert looks == {"due": 3, "next_wake": 2, "get": 1, "settle": 1}


def _count_calls(store: object, method: str, counts: Counter[str]) -> None:
    inner = getattr(store, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[method] += 1
        return inner(*args, **kwargs)

    setattr(store, method, counted)


class TestOverlap:
    async def test_skip_leaves_due_times_out_while_one_runs(self, world: World) -> None:
        await deploy_for_ever(world)
        await create(world, every(overlap_policy=OverlapPolicy.SKIP))
        await world.services.scheduler.open()
        await pass_time(3 * MINUTE)
        assert dues(world) == minutes_after(1)
        found = await get(world)
        assert (found.fired_count, found.skipped_count, found.missed_count) == (1, 2, 0)
        assert (found.last_due_time, found.next_time) == tuple(minutes_after(3, 4))

    async def test_skip_goes_on_when_it_has_ended_or_is_deleted(self, world: World) -> None:
        await world.deployed()
        await create(world, every(overlap_policy=OverlapPolicy.SKIP))
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        (first,) = executions(world)
        await world.ended(first.name)
        await world.services.executions.delete(first.name)
        await pass_time(MINUTE)
        assert dues(world) == minutes_after(2)

    async def test_queue_fires_beside_the_one_before(self, world: World) -> None:
        await deploy_for_ever(world, max_concurrency=1)
        await create(world, every(overlap_policy=OverlapPolicy.QUEUE))
        await world.services.scheduler.open()
        await pass_time(2 * MINUTE)
        first, second = executions(world)
        assert (first.state, second.state) == (State.RUNNING, State.QUEUED)

    async def test_cancel_previous_ends_the_one_before(self, world: World) -> None:
        await deploy_for_ever(world, max_concurrency=1)
        await create(world, every(overlap_policy=OverlapPolicy.CANCEL_PREVIOUS))
        await world.services.scheduler.open()
        await pass_time(2 * MINUTE)
        await asyncio.sleep(10)
        first, second = executions(world)
        assert (first.state, second.state) == (State.CANCELLED, State.RUNNING)
        assert first.failure is not None
        assert first.failure.reason is FailureReason.CANCELLED

    async def test_a_refused_execution_cancels_nothing(self, world: World) -> None:
        await deploy_for_ever(world)
        await create(world, every(overlap_policy=OverlapPolicy.CANCEL_PREVIOUS))
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        await set_enabled(world, False)
        await pass_time(2 * MINUTE)
        (first,) = executions(world)
        assert first.state is State.RUNNING


class TestPause:
    async def test_a_paused_schedule_is_never_due(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        paused = await world.services.schedules.set_paused(EACH, True, etag="", key=None)
        assert (paused.paused, paused.next_time) == (True, None)
        await pass_time(5 * MINUTE)
        assert dues(world) == minutes_after(1)
        resumed = await world.services.schedules.set_paused(EACH, False, etag="", key=None)
        assert (resumed.paused, resumed.next_time) == (False, EPOCH + 7 * MINUTE)
        await pass_time(MINUTE)
        assert dues(world) == minutes_after(1, 7)
        assert (await get(world)).missed_count == 0

    async def test_a_change_of_something_else_keeps_what_waits(self, world: World) -> None:
        await world.deployed()
        await set_enabled(world, False)
        await create(world, every())
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        changed = await world.services.schedules.update(
            EACH, lambda spec: replace(spec, input=b"new"), etag="", key=None, validate_only=False
        )
        assert changed.next_time == EPOCH + MINUTE
        assert "disabled" in (await get(world)).state_message
        await set_enabled(world, True)
        await asyncio.sleep(40)
        assert dues(world) == minutes_after(1)
        assert await world.repositories.executions.get_input(executions(world)[0].name) == b"new"


class TestTrigger:
    async def test_fires_now_even_if_paused(self, world: World) -> None:
        await deploy_for_ever(world)
        await create(world, every(input=b"in"))
        paused = await world.services.schedules.set_paused(EACH, True, etag="", key=None)
        name = await world.services.schedules.trigger(EACH, key=None)
        other = await world.services.schedules.trigger(EACH, key=None)
        assert name != other
        found = await get(world)
        assert found == replace(paused, last_execution=other)
        assert await world.repositories.executions.get_input(name) == b"in"

    async def test_a_repeat_finds_the_first_execution(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        once = key("TriggerSchedule")
        name = await world.services.schedules.trigger(EACH, key=once)
        later = await world.services.schedules.trigger(EACH, key=None)
        assert await world.services.schedules.trigger(EACH, key=once) == name
        assert (await get(world)).last_execution == later
        assert len(executions(world)) == 2

    async def test_the_next_due_time_sees_that_it_runs(self, world: World) -> None:
        await deploy_for_ever(world)
        await create(world, every(overlap_policy=OverlapPolicy.SKIP))
        await world.services.scheduler.open()
        await world.services.schedules.trigger(EACH, key=None)
        await pass_time(MINUTE)
        assert (await get(world)).skipped_count == 1

    async def test_says_why_it_cannot(self, world: World) -> None:
        await world.create()
        await create(world, every())
        with pytest.raises(FailedPreconditionError, match="never deployed"):
            await world.services.schedules.trigger(EACH, key=None)
        with pytest.raises(NotFoundError):
            await world.services.schedules.trigger(ScheduleName("default", "x"), key=None)


class TestDowntime:
    async def test_what_is_within_the_window_is_caught_up_with(self, world: World) -> None:
        await world.deployed()
        await create(world, every(catch_up_window=3 * MINUTE, overlap_policy=OverlapPolicy.QUEUE))
        await asyncio.sleep(10.5 * 60)
        await world.services.scheduler.open()
        await asyncio.sleep(1)
        assert dues(world) == minutes_after(8, 9, 10)
        found = await get(world)
        assert (found.fired_count, found.missed_count) == (3, 7)
        assert (found.last_due_time, found.next_time) == tuple(minutes_after(10, 11))

    async def test_what_is_older_is_missed_and_said_so(self, world: World) -> None:
        await world.deployed()
        await create(world, replace(HOURLY, catch_up_window=seconds(1)))
        await asyncio.sleep(5.5 * 3600)
        await world.services.scheduler.open()
        await asyncio.sleep(1)
        assert dues(world) == []
        found = await get(world)
        assert found.missed_count == 5
        assert found.state_message == (
            "5 due times until 2026-01-31T17:00:00Z were missed: the server did not run,"
            " or its clock was set"
        )
        await asyncio.sleep(3600)
        assert dues(world) == [EPOCH + timedelta(hours=6)]
        assert (await get(world)).state_message == ""

    async def test_a_due_time_as_old_as_the_window_still_fires(self, world: World) -> None:
        await world.deployed()
        await create(world, replace(HOURLY, catch_up_window=MINUTE))
        world.clock.ahead = timedelta(minutes=61)
        await world.services.scheduler.run_due()
        assert dues(world) == [EPOCH + timedelta(hours=1)]
        world.clock.ahead = timedelta(minutes=121, microseconds=1)
        await world.services.scheduler.run_due()
        assert (await get(world)).missed_count == 1

    async def test_what_was_started_before_a_crash_counts_as_fired(self, world: World) -> None:
        await world.deployed()
        schedule = await create(world, every(catch_up_window=seconds(1)))
        after = await world.restart()
        try:
            await after.services.scheduler._firing.start(schedule, EPOCH + MINUTE)
            await asyncio.sleep(90)  # more than the window: without the start it were missed
            await after.services.scheduler.run_due()
            assert dues(world) == minutes_after(1)
            found = await get(after)
            assert (found.fired_count, found.missed_count) == (1, 0)
            assert found.last_execution == executions(world)[0].name
        finally:
            await after.services.registry.close(0)
            await after.engines.close()

    async def test_the_window_is_never_longer_than_the_memory_of_requests(
        self, world: World
    ) -> None:
        await world.deployed()
        await create(world, every(catch_up_window=10 * MINUTE, overlap_policy=OverlapPolicy.QUEUE))
        limits = replace(world.services.scheduler._limits, request_retention=2 * MINUTE)
        world.services.scheduler._limits = limits
        await asyncio.sleep(10.5 * 60)
        await world.services.scheduler.run_due()
        assert dues(world) == minutes_after(9, 10)


class TestRefusals:
    async def test_are_told_and_tried_again(self, world: World) -> None:
        await world.deployed()
        await set_enabled(world, False)
        await create(world, every(catch_up_window=5 * MINUTE, overlap_policy=OverlapPolicy.QUEUE))
        await world.services.scheduler.open()
        await pass_time(3 * MINUTE)
        found = await get(world)
        assert "is disabled: enable it with EnableFunction" in found.state_message
        assert (found.next_time, found.fired_count, found.missed_count) == (EPOCH + MINUTE, 0, 0)
        await set_enabled(world, True)
        await asyncio.sleep(31)
        assert dues(world) == minutes_after(1, 2, 3)
        assert (await get(world)).state_message == ""

    async def test_are_missed_after_the_window(self, world: World) -> None:
        await world.deployed()
        await set_enabled(world, False)
        await create(world, every(catch_up_window=seconds(10)))
        await world.services.scheduler.open()
        await pass_time(5 * MINUTE)
        found = await get(world)
        assert found.missed_count == 4
        assert "is disabled" in found.state_message
        await set_enabled(world, True)
        await pass_time(MINUTE)
        assert dues(world)[-1] == EPOCH + 6 * MINUTE

    async def test_are_tried_ever_more_seldom(self, world: World) -> None:
        await world.create()
        await create(world, replace(HOURLY, catch_up_window=timedelta(minutes=30)))
        tries: Counter[str] = Counter()
        _count_calls(world.repositories.requests, "find", tries)
        await world.services.scheduler.open()
        await asyncio.sleep(3600 + 29 * 60)
        # Each try looks twice, and asks once more for a request that may have been faster.
        assert 60 <= tries["find"] // 3 <= 70

    async def test_a_full_queue_is_one(self, world: World) -> None:
        await deploy_for_ever(world, max_concurrency=1, max_queue_depth=1)
        await create(world, every(overlap_policy=OverlapPolicy.QUEUE))
        await world.services.scheduler.open()
        await pass_time(3 * MINUTE)
        assert len(executions(world)) == 2
        assert "queue" in (await get(world)).state_message

    async def test_an_engine_that_is_down_is_one(self, world: World) -> None:
        await world.deployed()
        await create(world, every(catch_up_window=5 * MINUTE, overlap_policy=OverlapPolicy.QUEUE))
        world.runtime.gate.away = True
        await asyncio.sleep(30)
        await world.services.scheduler.open()
        await pass_time(MINUTE)
        assert dues(world) == []
        assert "does not answer" in (await get(world)).state_message
        world.runtime.gate.away = False
        await pass_time(MINUTE)
        assert dues(world)[0] == EPOCH + MINUTE

    async def test_a_store_that_fails_is_waited_for(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        await world.services.scheduler.open()
        world.disk.failures["add"] = StorageError("the disk is full")
        await pass_time(MINUTE)
        await asyncio.sleep(20)
        assert dues(world) == []
        assert (await get(world)).state_message == ""
        del world.disk.failures["add"]
        await asyncio.sleep(2)
        assert dues(world) == minutes_after(1)

    async def test_a_schedule_that_breaks_does_not_hold_up_the_others(
        self, world: World, logged: list[MutableMapping[str, Any]]
    ) -> None:
        await world.deployed()
        broken = await create(world, every(), ScheduleName("default", "broken"))
        nonsense = replace(broken.spec, interval=None, cron="nonsense")
        world.repositories.schedules.rows[broken.name] = replace(broken, spec=nonsense)
        await create(world, every())
        await world.services.scheduler.open()
        await pass_time(2 * MINUTE)
        fired = Counter(e.labels[SCHEDULE_LABEL] for e in executions(world))
        assert fired == {"each": 2, "broken": 1}
        assert "internal error" in (await get(world, broken.name)).state_message
        assert [e["event"] for e in logged if e["log_level"] == "error"]


class TestClock:
    async def test_set_ahead_it_is_as_after_downtime(self, world: World) -> None:
        await world.deployed()
        await create(world, every(catch_up_window=seconds(90), overlap_policy=OverlapPolicy.QUEUE))
        await world.services.scheduler.open()
        await asyncio.sleep(10)
        world.clock.ahead = 10 * MINUTE
        await asyncio.sleep(11)  # the clock is looked at every 10 s
        assert dues(world) == minutes_after(9, 10)
        assert (await get(world)).missed_count == 8

    async def test_set_back_nothing_fires_twice(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        await world.services.scheduler.open()
        await pass_time(3 * MINUTE)
        world.clock.ahead = -2 * MINUTE
        await pass_time(2 * MINUTE)
        assert dues(world) == minutes_after(1, 2, 3)
        await world.services.schedules.update(
            EACH, lambda _: every(2 * MINUTE), etag="", key=None, validate_only=False
        )
        await pass_time(MINUTE)
        assert dues(world) == minutes_after(1, 2, 3, 4)


class TestFunctions:
    async def test_deleting_one_with_schedules_needs_force(self, world: World) -> None:
        await world.deployed()
        await create(world, every())
        functions = world.services.functions
        with pytest.raises(FailedPreconditionError) as caught:
            await functions.delete(HELLO, etag="", force=False, key=None)
        assert caught.value.reason == "SCHEDULES_EXIST"
        await functions.delete(HELLO, etag="", force=True, key=None)
        with pytest.raises(NotFoundError):
            await get(world)
        await world.services.scheduler.open()
        await pass_time(2 * MINUTE)
        assert executions(world) == []
