"""Whatever happens whenever: legal transitions, one result at the end, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from skybridge_server.errors import StorageError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Scaling, Timeouts
from skybridge_server.models.journal import Event
from tests.fakes.runtime import FakeProcess, Program
from tests.support.virtual_time import run
from tests.unit.services.world import World, until, world_of

MOMENT = st.integers(0, 60)
"""A time in tenths of a second; all that is played here takes about six seconds."""


@dataclass(frozen=True)
class Course:
    """When what happens."""

    turn: int
    created: int
    started: int
    exits: int
    obeys: bool
    stops: list[tuple[int, FailureReason]]
    engine_away: int | None
    removed: int | None
    disk_full: tuple[int, int] | None


COURSES = st.builds(
    Course,
    turn=st.integers(0, 15),
    created=st.integers(0, 25),
    started=st.integers(0, 35),
    exits=st.integers(0, 40),
    obeys=st.booleans(),
    stops=st.lists(
        st.tuples(MOMENT, st.sampled_from([FailureReason.CANCELLED, FailureReason.DEADLINE])),
        max_size=2,
    ),
    engine_away=st.none() | MOMENT,
    removed=st.none() | MOMENT,
    disk_full=st.none() | st.tuples(MOMENT, MOMENT),
)
TIMEOUTS = Timeouts(
    queue=timedelta(seconds=1.2),
    start=timedelta(seconds=2),
    execution=timedelta(seconds=2.5),
    shutdown_grace=timedelta(seconds=0.5),
)


class Play:
    """One execution, and those who meddle with it."""

    def __init__(self, world: World, course: Course) -> None:
        self.world = world
        self.course = course

    async def perform(self) -> None:
        world, course = self.world, self.course
        function = await world.services.functions.get(
            await world.deployed(program=self.program(), timeouts=TIMEOUTS)
        )
        slots = world.services.executions._acceptance._places._slots
        tickets = [slots.enter(function.uid, Scaling()) for _ in range(4)]  # no place is free
        gates = [world.runtime.gate.hold(method) for method in ("create", "start")]
        self.name = await world.start()
        watching = asyncio.create_task(self.watch())
        moments = [
            asyncio.create_task(each)
            for each in (
                _at(course.turn, *(ticket.release for ticket in tickets)),
                _at(course.created, gates[0].set),
                _at(course.started, gates[1].set),
                *self.meddling(),
            )
        ]
        execution = await world.ended(self.name)
        assert [event.sequence for event in await watching] == [
            event.sequence for event in world.journal(self.name)
        ]
        assert (execution.exit_code is None) or (execution.start_time is not None)
        await asyncio.gather(*moments)
        await world.idle()
        await self.check_nothing_is_left()

    def program(self) -> Program:
        async def tick(process: FakeProcess) -> int:
            told = asyncio.create_task(process.signalled("SIGTERM"))
            try:
                for _ in range(self.course.exits):
                    await process.write(b"tick")
                    await asyncio.wait({told}, timeout=0.1)
                    if told.done() and self.course.obeys:
                        return 0
                return 0
            finally:
                told.cancel()

        return tick

    def meddling(self) -> list[Coroutine[Any, Any, None]]:
        course, disk = self.course, self.world.disk
        found = [_at(time, lambda r=reason: self.stop(r)) for time, reason in course.stops]
        if course.engine_away is not None:
            found.append(_at(course.engine_away, self.take_engine_away))
        if course.removed is not None:
            found.append(self.remove(course.removed))
        if course.disk_full is not None:
            begin, length = course.disk_full
            full = StorageError("disk full")
            found.append(_at(begin, lambda: disk.failures.update(append=full)))
            found.append(_at(begin + length + 1, disk.failures.clear))
        return found

    def stop(self, reason: FailureReason) -> None:
        active = self.world.services.registry.get(self.name)
        if active is not None:
            active.stop(reason, "told to")

    def take_engine_away(self) -> None:
        self.world.runtime.gate.away = True
        for container in self.world.runtime.containers.present.values():
            container.kill()  # so its connections end

    async def remove(self, time: int) -> None:
        await _at(time)
        containers = self.world.runtime.containers
        for container_id in [*containers.present]:
            container = containers.present.pop(container_id)
            container.kill()

    async def watch(self) -> list[Event]:
        executions, events = self.world.services.executions, []
        async for item in executions.watch(self.name, after=0, heartbeat=timedelta(hours=1)):
            assert isinstance(item, Event)
            events.append(item)
        return events

    async def check_nothing_is_left(self) -> None:
        self.world.runtime.gate.away = False
        await until(lambda: self.world.engines.ready)
        await self.world.services.sweeper.sweep()
        assert not self.world.runtime.containers.present
        info = self.world.services.system.info()
        assert (info.running_executions, info.queued_executions) == (0, 0)
        assert not [*self.world.services.registry]


async def _at(time: int, *actions: Any) -> None:
    await asyncio.sleep(time / 10)
    for action in actions:
        action()


@settings(max_examples=150, deadline=None)
@given(course=COURSES)
def test_any_course_of_things(course: Course) -> None:
    async def example() -> None:
        async with world_of() as world:
            await Play(world, course).perform()

    run(example())


@settings(max_examples=100, deadline=None)
@given(
    cancels=st.lists(st.none() | MOMENT, min_size=1, max_size=8),
    places=st.integers(1, 3),
    exits=st.integers(0, 20),
)
def test_any_callers_that_leave(cancels: list[int | None], places: int, exits: int) -> None:
    """Each has its execution to itself: whoever stays gets a success, and who leaves cancels."""

    async def program(process: FakeProcess) -> int:
        told = asyncio.create_task(process.signalled("SIGTERM"))
        try:
            await asyncio.wait({told}, timeout=exits / 10)
            return 3 if told.done() else 0
        finally:
            told.cancel()

    async def example() -> None:
        async with world_of(max_concurrent_executions=places) as world:
            await world.deployed(program=program)
            calls = [asyncio.create_task(world.execute()) for _ in cancels]
            for call, moment in zip(calls, cancels, strict=True):
                if moment is not None:
                    asyncio.get_running_loop().call_later(moment / 10, call.cancel)
            await asyncio.gather(*calls, return_exceptions=True)
            await world.idle()
            for name in world.repositories.executions.rows:
                execution = await world.ended(name)
                assert execution.state in {ExecutionState.SUCCEEDED, ExecutionState.CANCELLED}
            for call in calls:
                assert call.cancelled() or call.result().state is ExecutionState.SUCCEEDED
            assert not world.runtime.containers.present

    run(example())
