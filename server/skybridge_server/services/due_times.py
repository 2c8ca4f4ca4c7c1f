"""When a schedule is due: cron expressions and intervals, and the jitter of each due time.

All of it is computed from the schedule and the due time alone, so that every start of the server
comes to the same times.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from skybridge_server.models.schedules import Schedule, ScheduleSpec

MAX_COUNTED = 1000
"""How many due times of a cron expression are counted at most when they are passed over."""
COUNTED_AT_ONCE = 50

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Passed:
    """Due times that lie behind: how many, and the last of them that was counted."""

    count: int
    last: datetime


def next_due(spec: ScheduleSpec, after: datetime) -> datetime | None:
    """Return the first due time after a time; None if there is none for decades.

    ValueError: the cron expression or the time zone is none.
    """
    if spec.interval is not None:
        return _EPOCH + ((after - _EPOCH) // spec.interval + 1) * spec.interval
    return next(_dues_of_cron(spec, after), None)


def time_zone(spec: ScheduleSpec) -> ZoneInfo:
    """Return the zone of a cron expression. ValueError: there is no such zone."""
    key = spec.time_zone or "UTC"
    try:
        return ZoneInfo(key)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {key!r}") from error


def planned(schedule: Schedule, after: datetime) -> Schedule:
    """Return a schedule that waits for its first due time after `after`.

    What was dealt with stays so, even if the clock has been set back since.
    """
    if schedule.paused:
        return replace(schedule, next_time=None, wake_time=None)
    due = next_due(schedule.spec, max(after, schedule.last_due_time or after))
    return replace(schedule, next_time=due, wake_time=due and due + jitter(schedule, due))


def jitter(schedule: Schedule, due: datetime) -> timedelta:
    """Return how much later a due time fires: less than `spec.jitter`, always the same."""
    text = f"{schedule.uid} {due.isoformat()}"
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return _MICROSECOND * (number * (schedule.spec.jitter // _MICROSECOND) >> 64)


async def passed(spec: ScheduleSpec, due: datetime, before: datetime) -> Passed:
    """Count the due times from `due` on that lie before a time; `due` is one of them."""
    if spec.interval is not None:
        count = -((due - before) // spec.interval)
        return Passed(count, due + (count - 1) * spec.interval)
    count, last = 1, due
    for following in _dues_of_cron(spec, due):
        if following >= before or count == MAX_COUNTED:
            break
        count, last = count + 1, following
        if count % COUNTED_AT_ONCE == 0:
            await asyncio.sleep(0)  # let others have the event loop
    return Passed(count, last)


def _dues_of_cron(spec: ScheduleSpec, after: datetime) -> Iterator[datetime]:
    """Yield the due times of a cron expression after a time. ValueError as in next_due."""
    try:
        moments = CronSim(spec.cron, after.astimezone(time_zone(spec)))
    except CronSimError as error:
        raise ValueError(str(error)) from error
    # In the hour that comes twice, the first due time found may lie before `after`.
    yield from (due for moment in moments if (due := moment.astimezone(UTC)) > after)
