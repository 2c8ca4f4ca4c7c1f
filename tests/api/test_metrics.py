"""MetricsService on the wire."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import metrics_service_pb2 as pb
from tests.api.served import Served, refusal
from tests.fakes.runtime import says
from tests.support.waiting import PATIENCE


async def metrics(served: Served, name: str = "hello", **fields: Duration) -> pb.FunctionMetrics:
    request = pb.GetFunctionMetricsRequest(name=name, **fields)
    return (await served.metrics.GetFunctionMetrics(request, timeout=PATIENCE)).metrics


async def test_metrics_of_a_function(served: Served) -> None:
    await served.create()
    await served.deploy()
    for code in (0, 0, 1):
        served.runtime.containers.program = says(b"x", code=code)
        await served.ended((await served.start()).name)
    found = await metrics(served)
    assert found.function == "namespaces/default/functions/hello"
    assert found.end_time.ToDatetime() - found.start_time.ToDatetime() == timedelta(hours=1)
    assert (found.executions, found.cold_starts) == (3, 3)
    assert [(each.state, each.count) for each in found.states] == [
        (execution_pb2.EXECUTION_STATE_SUCCEEDED, 2),
        (execution_pb2.EXECUTION_STATE_FAILED, 1),
    ]
    assert [(each.reason, each.count) for each in found.failures] == [
        (execution_pb2.FAILURE_REASON_EXIT_CODE, 1)
    ]
    for summary in (found.queue, found.start, found.run, found.total):
        percentiles = [each.ToTimedelta() for each in (summary.p50, summary.p95, summary.p99)]
        assert percentiles == sorted(percentiles)
        assert summary.HasField("p99")


async def test_a_function_that_never_ran_has_no_latencies(served: Served) -> None:
    await served.create()
    found = await metrics(served, window=Duration(seconds=60))
    assert found.end_time.ToDatetime() - found.start_time.ToDatetime() == timedelta(minutes=1)
    assert (found.executions, len(found.states), len(found.failures)) == (0, 0, 0)
    assert not found.total.HasField("p50")


async def test_an_unknown_function(served: Served) -> None:
    assert (await refusal(lambda: metrics(served, "unknown"))).code is StatusCode.NOT_FOUND
