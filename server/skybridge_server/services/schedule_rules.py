"""Rules over what users write of a schedule. Paths are those of the proto, as in rules.py."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from skybridge_server.models.functions import KIB
from skybridge_server.models.names import ScheduleName
from skybridge_server.models.schedules import ScheduleOptions, ScheduleSpec
from skybridge_server.services import due_times
from skybridge_server.services.limits import Limits
from skybridge_server.services.rules import MAX_LABELS, check_labels
from skybridge_server.services.violations import Violations, check_between

MAX_INPUT_BYTES = 256 * KIB
MAX_CRON_LENGTH = 256
TIME_ZONE = re.compile(r"(?=.{,64}$)[A-Z][\w+-]*(?:/[\w+-]+)*", re.ASCII)
MAX_CAUGHT_UP = 1000
"""Intervals that fit in a catch-up window."""
RESERVED = "skybridge."
"""How the labels start that we set ourselves."""

_SECOND = timedelta(seconds=1)
_ZERO = timedelta(0)
_LONGEST_INTERVAL = timedelta(days=365)
_LONGEST_JITTER = timedelta(hours=1)
_LONGEST_WINDOW = timedelta(hours=24)


def check_schedule(
    name: ScheduleName, spec: ScheduleSpec, limits: Limits, wrong: Violations
) -> None:
    """Check what a user writes of a schedule."""
    if spec.function.function and spec.function.namespace != name.namespace:
        wrong.add("schedule.function", f"must be one of the namespace '{name.namespace}'")
    if len(spec.input) > MAX_INPUT_BYTES:
        wrong.add(
            "schedule.input", f"must have at most {MAX_INPUT_BYTES} bytes, has {len(spec.input)}"
        )
    _check_options(spec.options, wrong)
    if spec.interval is not None:
        check_between(spec.interval, _SECOND, _LONGEST_INTERVAL, "schedule.interval", wrong)
        if spec.time_zone:
            wrong.add("schedule.time_zone", "must be empty with `interval`")
    else:
        _check_cron(spec, wrong)
    _check_lateness(spec, limits, wrong)


def _check_options(options: ScheduleOptions, wrong: Violations) -> None:
    field = "schedule.options.labels"
    if options.timeout is not None and options.timeout < timedelta(milliseconds=1):
        wrong.add("schedule.options.timeout", "must be at least 1 ms")
    check_labels(options.labels, field, wrong)
    if MAX_LABELS - 2 < len(options.labels) <= MAX_LABELS:
        wrong.add(field, f"must have at most {MAX_LABELS - 2} entries, has {len(options.labels)}")
    if any(key.startswith(RESERVED) for key in options.labels):
        wrong.add(field, f"labels that start with {RESERVED} are reserved")


def _check_cron(spec: ScheduleSpec, wrong: Violations) -> None:
    if spec.time_zone and not _is_time_zone(spec):
        wrong.add("schedule.time_zone", "must be the IANA name of a zone, such as Europe/Berlin")
        return
    problem = _cron_problem(spec)
    if problem:
        wrong.add("schedule.cron", problem)


def _is_time_zone(spec: ScheduleSpec) -> bool:
    try:
        return bool(TIME_ZONE.fullmatch(spec.time_zone) and due_times.time_zone(spec))
    except ValueError:
        return False


def _cron_problem(spec: ScheduleSpec) -> str:
    if not spec.cron:
        return "is required, unless there is an `interval`"
    if len(spec.cron) > MAX_CRON_LENGTH:
        return f"must have at most {MAX_CRON_LENGTH} characters"
    if len(spec.cron.split()) != 5:
        return "must have five fields: minute, hour, day of month, month, day of week"
    try:
        if due_times.next_due(spec, datetime.now(UTC)) is None:
            return "is never due in the next 50 years"
    except ValueError as error:
        return f"is no cron expression: {error}"
    return ""


def _check_lateness(spec: ScheduleSpec, limits: Limits, wrong: Violations) -> None:
    window, jitter = spec.catch_up_window, spec.jitter
    interval = max(spec.interval or _LONGEST_INTERVAL, _SECOND)
    check_between(jitter, _ZERO, min(_LONGEST_JITTER, interval), "schedule.jitter", wrong)
    longest = min(_LONGEST_WINDOW, MAX_CAUGHT_UP * interval)
    check_between(window, _SECOND, longest, "schedule.catch_up_window", wrong)
    remembered = limits.request_retention
    if window <= longest and window + jitter > remembered:
        wrong.add(
            "schedule.catch_up_window",
            f"must be at most {remembered.total_seconds():g} s together with `jitter`: so long the"
            " server remembers what has fired",
        )
