"""Schedules, which execute functions by the clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from skybridge_server.models.names import ExecutionName, FunctionName, ScheduleName


class OverlapPolicy(enum.IntEnum):
    """What becomes of a due time while the execution before runs. Values as in the proto."""

    SKIP = 1
    QUEUE = 2
    CANCEL_PREVIOUS = 3


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """Options of each execution."""

    timeout: timedelta | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """What users write of a schedule. It has a `cron` or an `interval`."""

    function: FunctionName
    input: bytes = b""
    options: ScheduleOptions = ScheduleOptions()
    cron: str = ""
    interval: timedelta | None = None
    time_zone: str = ""
    """IANA name of the zone of `cron`; '' is UTC."""
    overlap_policy: OverlapPolicy = OverlapPolicy.SKIP
    catch_up_window: timedelta = timedelta(minutes=1)
    jitter: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to execute a function, and what became of the due times so far."""

    name: ScheduleName
    uid: str
    spec: ScheduleSpec
    create_time: datetime
    update_time: datetime
    etag: str = ""
    paused: bool = False
    next_time: datetime | None = None
    """The due time to deal with next; None while paused, or if there is none."""
    wake_time: datetime | None = None
    """When to deal with it: `next_time` with its jitter, or the next try. None as above."""
    state_message: str = ""
    last_due_time: datetime | None = None
    """The last due time that was dealt with: none up to it is ever dealt with again."""
    last_execution: ExecutionName | None = None
    fired_count: int = 0
    skipped_count: int = 0
    missed_count: int = 0
