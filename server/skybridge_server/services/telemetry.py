"""What Prometheus is told about executions."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from skybridge_server.models.destinations import Delivery, DeliveryState
from skybridge_server.models.executions import Execution, ExecutionState, FailureReason
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.names import FunctionName
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.slots import Slots

PHASES = ("queue", "start", "init", "run", "total")
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BOUNDS = [*map(floatToGoString, (*_BUCKETS, math.inf))]
_OUTCOMES = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.PENDING: "postponed",
    DeliveryState.FAILED: "failed",
}


class Telemetry:
    """The metrics of executions."""

    def __init__(self, registry: CollectorRegistry, slots: Slots, pool: Pool, ahead: Ahead) -> None:
        self._retries = Counter(
            "skybridge_retries",
            "Attempts that failed, and after which there is another.",
            ["function"],
            registry=registry,
        )
        self._dead_letters = Counter(
            "skybridge_dead_letters",
            "Executions that failed for good and became dead letters.",
            ["function"],
            registry=registry,
        )
        self._deliveries = Counter(
            "skybridge_deliveries",
            "Attempts to tell a destination, by kind (function, webhook) and outcome: delivered,"
            " postponed, or failed for good.",
            ["kind", "outcome"],
            registry=registry,
        )
        self._functions: dict[FunctionName, _Counts] = {}
        registry.register(_Ends(self._functions))
        running = Gauge(
            "skybridge_executions_running", "Executions that run now.", registry=registry
        )
        running.set_function(lambda: slots.running)
        queued = Gauge(
            "skybridge_executions_queued", "Executions that wait now.", registry=registry
        )
        queued.set_function(lambda: slots.queued)
        instances = Gauge(
            "skybridge_instances", "Instances by state.", ["state"], registry=registry
        )
        for state in InstanceState:
            instances.labels(state.name).set_function(partial(_count, pool, state))
        created = Gauge(
            "skybridge_containers_ahead",
            "Containers that are created ahead, and that no execution has taken.",
            registry=registry,
        )
        created.set_function(lambda: len(ahead))
        registry.register(_KeptCounts(pool, ahead))

    def ended(self, execution: Execution) -> None:
        """Count an execution that has ended."""
        counts = self._functions.get(execution.function)
        if counts is None:
            counts = self._functions[execution.function] = _Counts()
        end = (execution.state, execution.failure.reason if execution.failure else None)
        counts.ends[end] = counts.ends.get(end, 0) + 1
        if execution.cold_start:
            counts.cold_starts += 1
        elif execution.instance:
            counts.warm_starts += 1
        timings = execution.timings
        for durations, length in (
            (counts.queue, timings.queue),
            (counts.start, timings.start),
            (counts.init, timings.init),
            (counts.run, timings.run),
            (counts.total, timings.total),
        ):
            if length is not None:
                durations.add(length.total_seconds())

    def retried(self, execution: Execution) -> None:
        """Count an attempt that is followed by another."""
        self._retries.labels(str(execution.function)).inc()

    def died(self, execution: Execution) -> None:
        """Count an execution that became a dead letter."""
        self._dead_letters.labels(str(execution.function)).inc()

    def delivery_tried(self, delivery: Delivery) -> None:
        """Count an attempt to tell a destination, which is now as given."""
        kind = "function" if delivery.destination.function else "webhook"
        self._deliveries.labels(kind, _OUTCOMES[delivery.state]).inc()


# Each execution is counted in six places. The counters of the library have a lock each, since many
# threads may count; here one does, and the one that shows the numbers only reads.


class _Durations:
    """How many durations lie in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return the upper bounds, each with the number of those below."""
        return [*zip(_BOUNDS, accumulate(self.counts), strict=True)]


@dataclass(slots=True)
class _Counts:
    """What is counted of one function."""

    ends: dict[tuple[ExecutionState, FailureReason | None], int] = field(default_factory=dict)
    cold_starts: int = 0
    warm_starts: int = 0
    queue: _Durations = field(default_factory=_Durations)
    start: _Durations = field(default_factory=_Durations)
    init: _Durations = field(default_factory=_Durations)
    run: _Durations = field(default_factory=_Durations)
    total: _Durations = field(default_factory=_Durations)


class _Ends(Collector):
    """Shows what is counted of executions that have ended."""

    def __init__(self, functions: Mapping[FunctionName, _Counts]) -> None:
        self._functions = functions

    def collect(self) -> Iterator[Metric]:
        ends = CounterMetricFamily(
            "skybridge_executions",
            "Executions that have ended.",
            labels=["function", "state", "reason"],
        )
        cold = CounterMetricFamily(
            "skybridge_coldstarts",
            "Executions for which a container was started.",
            labels=["function"],
        )
        warm = CounterMetricFamily(
            "skybridge_warmstarts",
            "Executions that ran on an instance that was there.",
            labels=["function"],
        )
        phases = HistogramMetricFamily(
            "skybridge_execution_phase_duration_seconds",
            "Time that executions spent queued, starting, initialising, running, and in all.",
            labels=["function", "phase"],
        )
        for name, counts in [*self._functions.items()]:
            function = str(name)
            for (state, reason), number in [*counts.ends.items()]:
                ends.add_metric([function, state.name, reason.name if reason else ""], number)
            cold.add_metric([function], counts.cold_starts)
            warm.add_metric([function], counts.warm_starts)
            for phase in PHASES:
                durations: _Durations = getattr(counts, phase)
                phases.add_metric([function, phase], durations.buckets(), durations.total)
        yield from (ends, cold, warm, phases)


def _count(pool: Pool, state: InstanceState) -> float:
    return sum(instance.state is state for instance in pool)


class _KeptCounts(Collector):
    """What those who keep containers count by themselves."""

    def __init__(self, pool: Pool, ahead: Ahead) -> None:
        self._pool = pool
        self._ahead = ahead

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "skybridge_instance_starts", "Instances that were started.", self._pool.starts
        )
        yield CounterMetricFamily(
            "skybridge_instance_evictions",
            "Idle instances that made room for another function.",
            self._pool.evictions,
        )
        yield CounterMetricFamily(
            "skybridge_containers_ahead_taken",
            "Executions that took a container which was created ahead.",
            self._ahead.taken,
        )
        yield CounterMetricFamily(
            "skybridge_containers_ahead_missed",
            "Executions that were to find one, and found none.",
            self._ahead.missed,
        )
