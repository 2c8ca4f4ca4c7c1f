"""Deals with due times as they come, in the order that each schedule has them.

All that has to be known is in the store: the plan of a schedule moves on after its due time is
dealt with, so a server that is killed in between deals with it again, and finds what was started.
One timer waits for the earliest plan of all.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError, StorageError
from skybridge_server.models.names import ExecutionName, ScheduleName
from skybridge_server.models.schedules import OverlapPolicy, Schedule
from skybridge_server.repositories.base import ScheduleRepository
from skybridge_server.services import due_times
from skybridge_server.services.alarm import FIRST_RETRY, LAST_RETRY, Alarm
from skybridge_server.services.clock import Clock
from skybridge_server.services.firing import Firing
from skybridge_server.services.limits import Limits

BATCH = 100
"""Schedules that are dealt with at once."""

_MICROSECOND = timedelta(microseconds=1)

log = structlog.get_logger(__name__)


class Scheduler:
    """Fires the schedules of one server."""

    def __init__(
        self, schedules: ScheduleRepository, firing: Firing, limits: Limits, clock: Clock
    ) -> None:
        self._schedules = schedules
        self._firing = firing
        self._limits = limits
        self._clock = clock
        self._alarm = Alarm("schedules", clock)

    async def open(self) -> None:
        """Deal with due times, those missed first, on until closed."""
        await self._alarm.open(self.run_due)

    async def close(self) -> None:
        """Stop; what is being fired is on disk or not, and the next start knows which."""
        await self._alarm.close()

    def wake(self) -> None:
        """Look at the plans again: one of them has changed."""
        self._alarm.wake()

    async def run_due(self) -> datetime | None:
        """Deal with all due times that have come; return when to do so again.

        StorageError: the store does not answer, and some were not dealt with.
        """
        while names := await self._schedules.due(now := self._clock.now(), BATCH):
            done = await asyncio.gather(
                *(self._deal_with(name, now) for name in names), return_exceptions=True
            )
            for error in filter(None, done):
                raise error
        return await self._schedules.next_wake()

    async def _deal_with(self, name: ScheduleName, now: datetime) -> None:
        try:
            schedule = await self._schedules.get(name)
        except NotFoundError:
            return
        due, wake = schedule.next_time, schedule.wake_time
        if due is None or wake is None or wake > now:
            return  # somebody has changed it just now
        try:
            settled = await self._outcome(schedule, due, now)
        except StorageError:
            raise
        except SkybridgeError as error:
            settled = _postponed(schedule, due, now, error.message)
        except Exception:
            log.exception("schedule broke", schedule=str(name))
            settled = _postponed(schedule, due, now, "internal error: see the log of the server")
        await self._schedules.settle(settled, due=due)

    async def _outcome(self, schedule: Schedule, due: datetime, now: datetime) -> Schedule:
        """Return what becomes of a schedule by a due time. Errors as in Firing.start."""
        spec, last = schedule.spec, schedule.last_execution
        execution = await self._firing.started(schedule, due)
        if execution is None:
            expired = now - self._patience(schedule)
            if due < expired:
                return await self._missed(schedule, due, expired)
            if spec.overlap_policy is OverlapPolicy.SKIP and await self._firing.runs(last):
                return _settled(schedule, due, skipped_count=schedule.skipped_count + 1)
            execution = await self._firing.start(schedule, due)
        if spec.overlap_policy is OverlapPolicy.CANCEL_PREVIOUS and last is not None:
            await self._firing.cancel(last)
        return _fired(schedule, due, execution)

    def _patience(self, schedule: Schedule) -> timedelta:
        """Return how old a due time may be: not older than a note of its firing can get."""
        patience = schedule.spec.catch_up_window + schedule.spec.jitter
        return min(patience, self._limits.request_retention)

    async def _missed(self, schedule: Schedule, due: datetime, expired: datetime) -> Schedule:
        passed = await due_times.passed(schedule.spec, due, expired)
        log.warning("due times missed", schedule=str(schedule.name), count=passed.count)
        why = schedule.state_message or (
            f"{passed.count} due times until {passed.last:%Y-%m-%dT%H:%M:%SZ} were missed:"
            " the server did not run, or its clock was set"
        )
        missed = replace(
            schedule,
            last_due_time=passed.last,
            missed_count=schedule.missed_count + passed.count,
            state_message=why,
        )
        return due_times.planned(missed, expired - _MICROSECOND)


def _fired(schedule: Schedule, due: datetime, execution: ExecutionName) -> Schedule:
    fired_count = schedule.fired_count + 1
    return _settled(schedule, due, last_execution=execution, fired_count=fired_count)


def _settled(schedule: Schedule, due: datetime, **changes: Any) -> Schedule:
    """Return a schedule that waits for the due time after this one."""
    changed = replace(schedule, last_due_time=due, state_message="", **changes)
    return due_times.planned(changed, due)


def _postponed(schedule: Schedule, due: datetime, now: datetime, why: str) -> Schedule:
    """Return a schedule whose due time is tried again, after about as long as it waits already."""
    waited = now - due - due_times.jitter(schedule, due)
    pause = min(max(waited, FIRST_RETRY), LAST_RETRY)
    log.info("due time not fired yet", schedule=str(schedule.name), detail=why)
    return replace(schedule, wake_time=now + pause, state_message=why)
