"""MetricsService over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skybridge.faas.v1 import metrics_service_pb2 as pb
from skybridge.faas.v1.metrics_service_pb2_grpc import MetricsServiceServicer
from skybridge_server.api import names
from skybridge_server.api.convert.metrics import metrics_to_proto, window_from_proto
from skybridge_server.services.metrics import MetricsService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.metrics_service_pb2_grpc import _ServicerContext as Context


class MetricsServicer(MetricsServiceServicer):
    """Sums over executions."""

    def __init__(self, metrics: MetricsService) -> None:
        self._metrics = metrics

    async def GetFunctionMetrics(
        self, request: pb.GetFunctionMetricsRequest, context: Context
    ) -> pb.GetFunctionMetricsResponse:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
            window = window_from_proto(request, wrong)
        metrics = await self._metrics.function(name, window)
        return pb.GetFunctionMetricsResponse(metrics=metrics_to_proto(metrics))
