"""What Prometheus is told about executions."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from skybridge_server.models.executions import Execution
from skybridge_server.services.slots import Slots

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)


class Telemetry:
    """The metrics of executions."""

    def __init__(self, registry: CollectorRegistry, slots: Slots) -> None:
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
        self._phases = Histogram(
            "skybridge_execution_phase_duration_seconds",
            "Time that executions spent queued, starting, running, and in all.",
            ["function", "phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        running = Gauge(
            "skybridge_executions_running", "Executions that run now.", registry=registry
        )
        running.set_function(lambda: slots.running)
        queued = Gauge(
            "skybridge_executions_queued", "Executions that wait now.", registry=registry
        )
        queued.set_function(lambda: slots.queued)

    def ended(self, execution: Execution) -> None:
        """Count an execution that has ended."""
        function = str(execution.function)
        reason = execution.failure.reason.name if execution.failure else ""
        self._executions.labels(function, execution.state.name, reason).inc()
        if execution.cold_start:
            self._cold_starts.labels(function).inc()
        timings = execution.timings
        for phase in ("queue", "start", "run", "total"):
            length = getattr(timings, phase)
            if length is not None:
                self._phases.labels(function, phase).observe(length.total_seconds())
