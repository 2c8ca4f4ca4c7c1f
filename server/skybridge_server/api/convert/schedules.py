"""Schedules, and what a change of one means."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from skybridge.faas.v1 import schedule_pb2 as pb
from skybridge_server.api import masks, names
from skybridge_server.api.convert.values import (
    duration_from_proto,
    duration_to_proto,
    enum_from_proto,
    optional_duration_from_proto,
    optional_duration_to_proto,
    optional_timestamp_to_proto,
    timestamp_to_proto,
)
from skybridge_server.models.names import FunctionName, ScheduleName
from skybridge_server.models.schedules import Schedule, ScheduleOptions, ScheduleSpec
from skybridge_server.services.violations import Violations

_SOME_INTERVAL = timedelta(days=1)
_DEFAULTS = ScheduleSpec(FunctionName("", ""))


def spec_from_proto(name: ScheduleName, message: pb.Schedule, wrong: Violations) -> ScheduleSpec:
    """Return what the user wrote of the field `schedule`; output-only fields are ignored.

    A function's short name is that of one in the namespace of the schedule.
    """
    prefix = "schedule."
    options = message.options
    return ScheduleSpec(
        function=names.function(
            message.function, f"{prefix}function", wrong, default=name.namespace
        ),
        input=message.input,
        options=ScheduleOptions(
            timeout=optional_duration_from_proto(options, "timeout", f"{prefix}options.", wrong),
            labels=dict(options.labels),
        ),
        cron=message.cron,
        interval=_interval_from_proto(message, wrong),
        time_zone=message.time_zone,
        overlap_policy=enum_from_proto(
            message.overlap_policy, _DEFAULTS.overlap_policy, f"{prefix}overlap_policy", wrong
        ),
        catch_up_window=duration_from_proto(
            message, "catch_up_window", _DEFAULTS.catch_up_window, prefix, wrong
        ),
        jitter=duration_from_proto(message, "jitter", _DEFAULTS.jitter, prefix, wrong),
    )


def _interval_from_proto(message: pb.Schedule, wrong: Violations) -> timedelta | None:
    """Return the interval; for a wrong one another, since it is there all the same."""
    if not message.HasField("interval"):
        return None
    return duration_from_proto(message, "interval", _SOME_INTERVAL, "schedule.", wrong)


def changed_spec(
    current: ScheduleSpec, wanted: ScheduleSpec, paths: frozenset[str]
) -> ScheduleSpec:
    """Return a specification with the fields at `paths` as wanted; of two timings the new one."""
    merged = masks.SCHEDULE.merge(current, wanted, paths)
    if "cron" in paths and merged.cron:
        return replace(merged, interval=None)
    if "interval" in paths and merged.interval is not None:
        zone = merged.time_zone if "time_zone" in paths else ""
        return replace(merged, cron="", time_zone=zone)
    return merged


def schedule_to_proto(schedule: Schedule) -> pb.Schedule:
    spec = schedule.spec
    message = pb.Schedule(
        name=str(schedule.name),
        uid=schedule.uid,
        function=str(spec.function),
        input=spec.input,
        options=pb.ScheduleOptions(
            timeout=optional_duration_to_proto(spec.options.timeout), labels=spec.options.labels
        ),
        overlap_policy=pb.OverlapPolicy.ValueType(spec.overlap_policy),
        catch_up_window=duration_to_proto(spec.catch_up_window),
        jitter=duration_to_proto(spec.jitter),
        paused=schedule.paused,
        state_message=schedule.state_message,
        etag=schedule.etag,
        create_time=timestamp_to_proto(schedule.create_time),
        update_time=timestamp_to_proto(schedule.update_time),
        next_time=optional_timestamp_to_proto(schedule.next_time),
        last_due_time=optional_timestamp_to_proto(schedule.last_due_time),
        last_execution=str(schedule.last_execution or ""),
        fired_count=schedule.fired_count,
        skipped_count=schedule.skipped_count,
        missed_count=schedule.missed_count,
    )
    if spec.interval is not None:
        message.interval.CopyFrom(duration_to_proto(spec.interval))
    else:
        message.cron = spec.cron
        message.time_zone = spec.time_zone or "UTC"
    return message
