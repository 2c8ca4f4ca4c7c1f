"""Sums over executions."""

from __future__ import annotations

from datetime import timedelta

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import metrics_service_pb2 as pb
from skybridge_server.api.convert.values import (
    duration_from_proto,
    duration_to_proto,
    optional_duration_to_proto,
    timestamp_to_proto,
)
from skybridge_server.models.metrics import FunctionMetrics, LatencySummary
from skybridge_server.services.violations import Violations, check_between


def window_from_proto(request: pb.GetFunctionMetricsRequest, wrong: Violations) -> timedelta:
    window = duration_from_proto(request, "window", timedelta(hours=1), "", wrong)
    check_between(window, timedelta(seconds=1), timedelta(days=31), "window", wrong)
    return window


def metrics_to_proto(metrics: FunctionMetrics) -> pb.FunctionMetrics:
    return pb.FunctionMetrics(
        function=str(metrics.function),
        start_time=timestamp_to_proto(metrics.start_time),
        end_time=timestamp_to_proto(metrics.end_time),
        executions=metrics.executions,
        states=[
            pb.StateCount(state=execution_pb2.ExecutionState.ValueType(state), count=count)
            for state, count in sorted(metrics.states.items())
        ],
        failures=[
            pb.FailureCount(reason=execution_pb2.FailureReason.ValueType(reason), count=count)
            for reason, count in sorted(metrics.failures.items())
        ],
        cold_starts=metrics.cold_starts,
        queue=_latency_to_proto(metrics.queue),
        start=_latency_to_proto(metrics.start),
        run=_latency_to_proto(metrics.run),
        total=_latency_to_proto(metrics.total),
        cpu=duration_to_proto(metrics.cpu),
        peak_memory_bytes=metrics.peak_memory_bytes,
        warm_starts=metrics.warm_starts,
        cold_total=_latency_to_proto(metrics.cold_total),
        warm_total=_latency_to_proto(metrics.warm_total),
        init=_latency_to_proto(metrics.init),
    )


def _latency_to_proto(summary: LatencySummary) -> pb.LatencySummary:
    return pb.LatencySummary(
        p50=optional_duration_to_proto(summary.p50),
        p95=optional_duration_to_proto(summary.p95),
        p99=optional_duration_to_proto(summary.p99),
    )
