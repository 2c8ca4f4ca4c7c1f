"""Sums over the executions of a function."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.names import FunctionName


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Percentiles of a duration by nearest rank; None without executions."""

    p50: timedelta | None = None
    p95: timedelta | None = None
    p99: timedelta | None = None


@dataclass(frozen=True, slots=True)
class FunctionMetrics:
    """What the executions of a function did in a window of time."""

    function: FunctionName
    start_time: datetime
    end_time: datetime
    states: dict[ExecutionState, int]
    failures: dict[FailureReason, int]
    cold_starts: int
    queue: LatencySummary
    start: LatencySummary
    run: LatencySummary
    total: LatencySummary
    cpu: timedelta
    peak_memory_bytes: int
    warm_starts: int = 0
    """Executions that ran on an instance that was there."""
    cold_total: LatencySummary = LatencySummary()
    warm_total: LatencySummary = LatencySummary()
    init: LatencySummary = LatencySummary()

    @property
    def executions(self) -> int:
        return sum(self.states.values())
