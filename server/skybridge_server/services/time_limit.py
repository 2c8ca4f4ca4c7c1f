"""How long a process may run, and what it means when it runs longer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from skybridge_server.models.executions import FailureReason
from skybridge_server.services.active import ActiveExecution


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """A length of time, and why not longer."""

    length: timedelta
    reason: FailureReason
    message: str


def time_limit(active: ActiveExecution) -> TimeLimit:
    """Return the limit of a process that starts now: the function's, or its caller's if shorter."""
    asked = active.journal.accepted.timeout
    length = min(active.revision.spec.timeouts.execution, asked or timedelta.max)
    if active.not_after is not None:
        left = max(active.not_after - datetime.now(UTC), timedelta(0))
        if left < length:
            return TimeLimit(left, FailureReason.DEADLINE, "the caller's deadline passed")
    field = "options.timeout" if asked == length else "spec.timeouts.execution"
    return TimeLimit(
        length,
        FailureReason.EXECUTION_TIMEOUT,
        f"it ran longer than {seconds(length)}: raise {field}",
    )


def time_left(active: ActiveExecution) -> timedelta:
    """Return how much of its limit a process has left, or one that starts now."""
    started = active.journal.execution.start_time
    spent = timedelta(0) if started is None else datetime.now(UTC) - started
    return max(time_limit(active).length - spent, timedelta(0))


def seconds(length: timedelta) -> str:
    return f"{length.total_seconds():g} s"
