"""What Prometheus is told about executions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from skybridge_server.models.destinations import Delivery, DeliveryState
from skybridge_server.models.executions import Execution, ExecutionState, FailureReason
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.names import FunctionName
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.slots import Slots

PHASES = ("queue", "start", "init", "run", "total")
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_OUTCOMES = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.PENDING: "postponed",
    DeliveryState.FAILED: "failed",
}


class Telemetry:
    """The metrics of executions."""

    def __init__(self, registry: CollectorRegistry, slots: Slots, pool: Pool, ahead: Ahead) -> None:
        self._executions = Counter(
            "skybridge_executions",
            "Executions that have ended.",
            ["function", "state", "reason"],
            registry=registry,
        )
        self._cold_starts = Counter(
            "skybridge_coldstarts",
            "Executions for which a container was started.",
            ["function"],
            registry=registry,
        )
        self._warm_starts = Counter(
            "skybridge_warmstarts",
            "Executions that ran on an instance that was there.",
            ["function"],
            registry=registry,
        )
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
        self._phases = Histogram(
            "skybridge_execution_phase_duration_seconds",
            "Time that executions spent queued, starting, initialising, running, and in all.",
            ["function", "phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._functions: dict[FunctionName, _Counts] = {}
        """Those of each function: looking for them by labels costs more than using them."""
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
            counts = self._functions[execution.function] = self._counts_of(execution.function)
        reason = execution.failure.reason if execution.failure else None
        ended = counts.ends.get((execution.state, reason))
        if ended is None:
            ended = self._executions.labels(
                str(execution.function), execution.state.name, reason.name if reason else ""
            )
            counts.ends[execution.state, reason] = ended
        ended.inc()
        if execution.cold_start:
            counts.cold_starts.inc()
        elif execution.instance:
            counts.warm_starts.inc()
        timings = execution.timings
        for phase, durations in counts.phases:
            length = getattr(timings, phase)
            if length is not None:
                durations.observe(length.total_seconds())

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

    def _counts_of(self, name: FunctionName) -> _Counts:
        function = str(name)
        return _Counts(
            cold_starts=self._cold_starts.labels(function),
            warm_starts=self._warm_starts.labels(function),
            phases=[(each, self._phases.labels(function, each)) for each in PHASES],
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What is counted of one function."""

    cold_starts: Counter
    warm_starts: Counter
    phases: list[tuple[str, Histogram]]
    ends: dict[tuple[ExecutionState, FailureReason | None], Counter] = field(default_factory=dict)


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
