"""grpc.health.v1 for "" and each service: Check, List, and Watch, which ends at the stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from skybridge_server.api.calls import Methods
from skybridge_server.api.descriptors import health_list_messages
from skybridge_server.errors import NotFoundError

SERVICE = "grpc.health.v1.Health"
EXECUTION_SERVICE = "skybridge.faas.v1.ExecutionService"
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN

_ListRequest, _ListResponse = health_list_messages()


class Health:
    """Knows how each service is, and tells those who ask and those who watch.

    All are NOT_SERVING until `start`. Executions also need a container engine: their service
    serves once `set_execution_serving` says so.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._statuses: dict[str, int] = dict.fromkeys(("", *services), NOT_SERVING)
        self._changed = asyncio.Event()
        self._execution_serving = False
        self._started = False
        self._stopped = False

    def start(self) -> None:
        """Say that the server is ready."""
        self._started = True
        self._update()

    def set_execution_serving(self, serving: bool) -> None:
        """Say whether executions can run."""
        self._execution_serving = serving
        self._update()

    def stop(self) -> None:
        """Say, for good, that nothing serves any more, and let every watch end.

        A watch that stayed open would hold up the stop of the server for its whole grace.
        """
        self._stopped = True
        self._update()

    def _update(self) -> None:
        up = self._started and not self._stopped
        for service in self._statuses:
            serves = up and (service != EXECUTION_SERVICE or self._execution_serving)
            self._statuses[service] = SERVING if serves else NOT_SERVING
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: HealthCheckRequest, context: object) -> HealthCheckResponse:
        """Return how a service is now. NotFoundError."""
        if request.service not in self._statuses:
            raise NotFoundError("service", request.service)
        return HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(
        self, request: HealthCheckRequest, context: object
    ) -> AsyncGenerator[HealthCheckResponse, None]:
        """Tell how a service is, now and after every change."""
        told = None
        while True:
            changed, stopped = self._changed, self._stopped
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            if stopped:
                return
            await changed.wait()

    async def List(self, request: object, context: object) -> Any:
        """Return how every service is."""
        statuses = {name: {"status": status} for name, status in self._statuses.items()}
        return _ListResponse(statuses=statuses)

    def add_to(self, methods: Methods) -> None:
        """Let a server answer for this."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self.Check,
                HealthCheckRequest.FromString,
                HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.Watch,
                HealthCheckRequest.FromString,
                HealthCheckResponse.SerializeToString,
            ),
            "List": grpc.unary_unary_rpc_method_handler(
                self.List, _ListRequest.FromString, _ListResponse.SerializeToString
            ),
        }
        methods.add_registered_method_handlers(SERVICE, handlers)
