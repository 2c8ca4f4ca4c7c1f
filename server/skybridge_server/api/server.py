"""The gRPC server: services, ports, and the order of stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import grpc
from prometheus_client import CollectorRegistry

from skybridge.faas.v1.dead_letter_service_pb2_grpc import (
    DeadLetterServiceServicer,
    add_DeadLetterServiceServicer_to_server,
)
from skybridge.faas.v1.execution_service_pb2_grpc import (
    ExecutionServiceServicer,
    add_ExecutionServiceServicer_to_server,
)
from skybridge.faas.v1.function_service_pb2_grpc import (
    FunctionServiceServicer,
    add_FunctionServiceServicer_to_server,
)
from skybridge.faas.v1.instance_service_pb2_grpc import (
    InstanceServiceServicer,
    add_InstanceServiceServicer_to_server,
)
from skybridge.faas.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from skybridge.faas.v1.schedule_service_pb2_grpc import (
    ScheduleServiceServicer,
    add_ScheduleServiceServicer_to_server,
)
from skybridge.faas.v1.system_service_pb2_grpc import (
    SystemServiceServicer,
    add_SystemServiceServicer_to_server,
)
from skybridge_server.api import health, reflection
from skybridge_server.api.calls import Methods
from skybridge_server.api.health import Health
from skybridge_server.api.listen import bind, bound
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.tls import server_context
from skybridge_server.api.wire.server import WireServer
from skybridge_server.config import Address, Settings

PACKAGE = "skybridge.faas.v1"
Servicer = (
    FunctionServiceServicer
    | ExecutionServiceServicer
    | DeadLetterServiceServicer
    | ScheduleServiceServicer
    | MetricsServiceServicer
    | InstanceServiceServicer
    | SystemServiceServicer
)


class GrpcServer:
    """Our services, health and reflection on one port."""

    def __init__(
        self, settings: Settings, servicers: Sequence[Servicer], registry: CollectorRegistry
    ) -> None:
        self._settings = settings
        methods = Methods(CallMetrics(registry))
        names = [_register(methods, servicer) for servicer in servicers]
        self.health = Health(names)
        self.health.add_to(methods)
        reflection.add(methods, [*names, health.SERVICE])
        self.wire = WireServer(methods.find)

    async def start(self) -> Address:
        """Listen, and return where. SettingsError."""
        context = server_context(self._settings)
        sockets = bind("listen", self._settings.listen)
        await self.wire.listen(sockets, context)
        self.health.start()
        return bound(self._settings.listen, sockets)

    async def stop(self, grace: timedelta) -> None:
        """Say NOT_SERVING, take no more calls, and wait for those that run, at most `grace`.

        A second call with a shorter grace hurries the first; so does being cancelled.
        """
        self.health.stop()
        try:
            await self.wire.stop(grace.total_seconds())
        except asyncio.CancelledError:
            await self.wire.stop(0.0)
            raise


def _register(methods: Methods, servicer: Servicer) -> str:
    """Add a servicer, and return the full name of its service."""
    server = cast("grpc.aio.Server", methods)  # all that generated code needs of one
    match servicer:
        case FunctionServiceServicer():
            add_FunctionServiceServicer_to_server(servicer, server)
            name = "FunctionService"
        case ExecutionServiceServicer():
            add_ExecutionServiceServicer_to_server(servicer, server)
            name = "ExecutionService"
        case DeadLetterServiceServicer():
            add_DeadLetterServiceServicer_to_server(servicer, server)
            name = "DeadLetterService"
        case ScheduleServiceServicer():
            add_ScheduleServiceServicer_to_server(servicer, server)
            name = "ScheduleService"
        case MetricsServiceServicer():
            add_MetricsServiceServicer_to_server(servicer, server)
            name = "MetricsService"
        case InstanceServiceServicer():
            add_InstanceServiceServicer_to_server(servicer, server)
            name = "InstanceService"
        case SystemServiceServicer():
            add_SystemServiceServicer_to_server(servicer, server)
            name = "SystemService"
    return f"{PACKAGE}.{name}"
