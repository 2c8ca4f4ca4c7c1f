"""SystemService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge.faas.v1.system_service_pb2_grpc import SystemServiceServicer
from skybridge_server.api.convert.deployments import credentials_from_proto, pull_to_proto
from skybridge_server.api.convert.system import (
    drain_grace,
    runtime_to_proto,
    shutdown_policy,
    system_info_to_proto,
)
from skybridge_server.services import rules
from skybridge_server.services.deployments import DeploymentService
from skybridge_server.services.limits import Limits
from skybridge_server.services.shutdown import Shutdown
from skybridge_server.services.system import SystemService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.system_service_pb2_grpc import _ServicerContext as Context


class SystemServicer(SystemServiceServicer):
    """The server itself, its runtimes, and their images."""

    def __init__(
        self,
        system: SystemService,
        deployments: DeploymentService,
        limits: Limits,
        shutdown: Shutdown,
    ) -> None:
        self._system = system
        self._deployments = deployments
        self._limits = limits
        self._shutdown = shutdown

    async def GetSystemInfo(
        self, request: pb.GetSystemInfoRequest, context: Context
    ) -> pb.GetSystemInfoResponse:
        return system_info_to_proto(self._system.info())

    async def ListRuntimes(
        self, request: pb.ListRuntimesRequest, context: Context
    ) -> pb.ListRuntimesResponse:
        runtimes = await self._system.runtimes()
        return pb.ListRuntimesResponse(runtimes=[runtime_to_proto(each) for each in runtimes])

    async def DrainServer(
        self, request: pb.DrainServerRequest, context: Context
    ) -> pb.DrainServerResponse:
        with Violations() as wrong:
            grace = drain_grace(request, wrong)
            policy = shutdown_policy(request, wrong)
        info = self._system.info()
        self._shutdown.request(grace, policy)
        return pb.DrainServerResponse(
            running_executions=info.running_executions, queued_executions=info.queued_executions
        )

    async def PullImage(
        self, request: pb.PullImageRequest, context: Context
    ) -> AsyncIterator[pb.PullImageResponse]:
        with Violations() as wrong:
            rules.check_reference(request.image, "image", wrong)
            rules.check_runtime(request.runtime, self._limits, "runtime", wrong)
            credentials = credentials_from_proto(request.registry_credentials, wrong)
        steps = self._deployments.pull(request.image, request.runtime, credentials)
        async with aclosing(steps):
            async for step in steps:
                yield pull_to_proto(step)
