"""The gRPC server: services, ports, and the order of stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

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
from skybridge.faas.v1.secret_service_pb2_grpc import (
    SecretServiceServicer,
    add_SecretServiceServicer_to_server,
)
from skybridge.faas.v1.system_service_pb2_grpc import (
    SystemServiceServicer,
    add_SystemServiceServicer_to_server,
)
from skybridge.faas.v1.token_service_pb2_grpc import (
    TokenServiceServicer,
    add_TokenServiceServicer_to_server,
)
from skybridge_server.api import health, reflection
from skybridge_server.api.access import GuardOf
from skybridge_server.api.calls import Methods
from skybridge_server.api.health import Health
from skybridge_server.api.listen import bind, bound
from skybridge_server.api.permissions import PACKAGE
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.tls import server_context
from skybridge_server.api.wire.server import WireServer
from skybridge_server.config import Address, Settings

Servicer = (
    FunctionServiceServicer
    | ExecutionServiceServicer
    | DeadLetterServiceServicer
    | ScheduleServiceServicer
    | MetricsServiceServicer
    | InstanceServiceServicer
    | SecretServiceServicer
    | SystemServiceServicer
    | TokenServiceServicer
)


_SERVICES: Mapping[type[Servicer], Callable[[Any, Any], None]] = {
    FunctionServiceServicer: add_FunctionServiceServicer_to_server,
    ExecutionServiceServicer: add_ExecutionServiceServicer_to_server,
    DeadLetterServiceServicer: add_DeadLetterServiceServicer_to_server,
    ScheduleServiceServicer: add_ScheduleServiceServicer_to_server,
    MetricsServiceServicer: add_MetricsServiceServicer_to_server,
    InstanceServiceServicer: add_InstanceServiceServicer_to_server,
    SecretServiceServicer: add_SecretServiceServicer_to_server,
    SystemServiceServicer: add_SystemServiceServicer_to_server,
    TokenServiceServicer: add_TokenServiceServicer_to_server,
}


class GrpcServer:
    """Our services, health and reflection on one port."""

    def __init__(
        self,
        settings: Settings,
        servicers: Sequence[Servicer],
        registry: CollectorRegistry,
        guard_of: GuardOf,
    ) -> None:
        self._settings = settings
        methods = Methods(CallMetrics(registry), guard_of)
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
    for kind, add in _SERVICES.items():
        if isinstance(servicer, kind):
            add(servicer, methods)
            return f"{PACKAGE}.{kind.__name__.removesuffix('Servicer')}"
    raise TypeError(f"{type(servicer)} answers for no service of ours")
