"""Schedules as rows of their table."""

from __future__ import annotations

from typing import Any

from skybridge_server.models.names import ExecutionName, FunctionName, ScheduleName
from skybridge_server.models.schedules import (
    OverlapPolicy,
    Schedule,
    ScheduleOptions,
    ScheduleSpec,
)
from skybridge_server.repositories.codec import (
    dumps_labels,
    from_duration,
    from_time,
    loads_labels,
    optional,
    to_duration,
    to_time,
)
from skybridge_server.repositories.tables import FunctionRow
from skybridge_server.repositories.tables import ScheduleRow as Row

FIXED = (Row.namespace, Row.schedule, Row.uid, Row.create_time)
"""What never changes."""

WRITTEN = (
    Row.timeout,
    Row.labels,
    Row.cron,
    Row.interval,
    Row.time_zone,
    Row.overlap_policy,
    Row.catch_up_window,
    Row.jitter,
    Row.update_time,
    Row.etag,
    Row.paused,
)
"""What users write, beside the function and the input."""

OUTCOME = (
    Row.state_message,
    Row.last_due_time,
    Row.last_execution,
    Row.fired_count,
    Row.skipped_count,
    Row.missed_count,
)
"""What the scheduler writes."""

PLAN = (Row.next_time, Row.wake_time)
"""What both write."""

READ = (*FIXED, *WRITTEN, *OUTCOME, *PLAN, FunctionRow.function)
"""What lists read; more is the input."""


def fixed_values(schedule: Schedule) -> tuple[Any, ...]:
    """Return the values of FIXED."""
    name = schedule.name
    return (name.namespace, name.schedule, schedule.uid, from_time(schedule.create_time))


def written_values(schedule: Schedule) -> tuple[Any, ...]:
    """Return the values of WRITTEN."""
    spec = schedule.spec
    return (
        optional(from_duration, spec.options.timeout),
        dumps_labels(spec.options.labels),
        spec.cron,
        optional(from_duration, spec.interval),
        spec.time_zone,
        spec.overlap_policy,
        from_duration(spec.catch_up_window),
        from_duration(spec.jitter),
        from_time(schedule.update_time),
        schedule.etag,
        schedule.paused,
    )


def outcome_values(schedule: Schedule) -> tuple[Any, ...]:
    """Return the values of OUTCOME."""
    return (
        schedule.state_message,
        optional(from_time, schedule.last_due_time),
        schedule.last_execution and schedule.last_execution.execution,
        schedule.fired_count,
        schedule.skipped_count,
        schedule.missed_count,
    )


def plan_values(schedule: Schedule) -> tuple[Any, ...]:
    """Return the values of PLAN."""
    return optional(from_time, schedule.next_time), optional(from_time, schedule.wake_time)


def from_row(row: tuple[Any, ...], input_: bytes = b"") -> Schedule:
    """Return the schedule of a row of READ."""
    (namespace, schedule, uid, create_time, timeout, labels, cron, interval, time_zone) = row[:9]
    (overlap_policy, catch_up_window, jitter, update_time, etag, paused) = row[9:15]
    (state_message, last_due_time, last_execution, fired_count, skipped_count) = row[15:20]
    (missed_count, next_time, wake_time, function) = row[20:]
    spec = ScheduleSpec(
        function=FunctionName(namespace, function),
        input=input_,
        options=ScheduleOptions(optional(to_duration, timeout), loads_labels(labels)),
        cron=cron,
        interval=optional(to_duration, interval),
        time_zone=time_zone,
        overlap_policy=OverlapPolicy(overlap_policy),
        catch_up_window=to_duration(catch_up_window),
        jitter=to_duration(jitter),
    )
    return Schedule(
        name=ScheduleName(namespace, schedule),
        uid=uid,
        spec=spec,
        create_time=to_time(create_time),
        update_time=to_time(update_time),
        etag=etag,
        paused=bool(paused),
        next_time=optional(to_time, next_time),
        wake_time=optional(to_time, wake_time),
        state_message=state_message,
        last_due_time=optional(to_time, last_due_time),
        last_execution=optional(lambda id_: ExecutionName(namespace, id_), last_execution),
        fired_count=fired_count,
        skipped_count=skipped_count,
        missed_count=missed_count,
    )
