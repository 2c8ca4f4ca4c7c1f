"""A server as in production around a servicer of a few lines, whose RPCs do what tests tell."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from skybridge.faas.v1 import (
    dead_letter_service_pb2_grpc,
    execution_service_pb2_grpc,
    function_service_pb2_grpc,
    metrics_service_pb2_grpc,
    schedule_service_pb2_grpc,
    system_service_pb2_grpc,
)
from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server.api.access import open_to_all
from skybridge_server.api.server import GrpcServer
from skybridge_server.config import Address, Settings

SERVICES = (
    "skybridge.faas.v1.DeadLetterService",
    "skybridge.faas.v1.ExecutionService",
    "skybridge.faas.v1.FunctionService",
    "skybridge.faas.v1.MetricsService",
    "skybridge.faas.v1.ScheduleService",
    "skybridge.faas.v1.SystemService",
)
LOOPBACK = Address("127.0.0.1", 0)


async def _answer() -> pb.GetSystemInfoResponse:
    return pb.GetSystemInfoResponse(version="tiny")


async def _pull() -> AsyncGenerator[pb.PullImageResponse, None]:
    yield pb.PullImageResponse(image=pb.PulledImage(image_id="sha256:1"))


async def _attach(
    requests: AsyncIterator[Any],
) -> AsyncGenerator[executions_pb.AttachExecutionResponse, None]:
    async for _ in requests:
        yield executions_pb.AttachExecutionResponse()


@dataclass
class Script:
    """What the RPCs do; a test replaces it."""

    info: Callable[[], Awaitable[pb.GetSystemInfoResponse]] = field(default=_answer)
    pull: Callable[[], AsyncGenerator[pb.PullImageResponse, None]] = field(default=_pull)
    attach: Callable[[AsyncIterator[Any]], AsyncGenerator[Any, None]] = field(default=_attach)


class TinySystem(system_service_pb2_grpc.SystemServiceServicer):
    """One unary RPC and one that streams, as the script says."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def GetSystemInfo(self, request: Any, context: Any) -> pb.GetSystemInfoResponse:
        return await self.script.info()

    async def ListRuntimes(self, request: Any, context: Any) -> pb.ListRuntimesResponse:
        return pb.ListRuntimesResponse()

    async def PullImage(
        self, request: Any, context: Any
    ) -> AsyncGenerator[pb.PullImageResponse, None]:
        async for response in self.script.pull():
            yield response


class TinyExecutions(execution_service_pb2_grpc.ExecutionServiceServicer):
    """One bidirectional RPC."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def AttachExecution(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncGenerator[executions_pb.AttachExecutionResponse, None]:
        async for response in self.script.attach(requests):
            yield response


def servicers(script: Script) -> list[Any]:
    """Return a servicer of each service; of most, nothing is implemented."""
    tiny: list[Any] = [
        TinyExecutions,
        TinySystem,
        function_service_pb2_grpc.FunctionServiceServicer,
        metrics_service_pb2_grpc.MetricsServiceServicer,
        dead_letter_service_pb2_grpc.DeadLetterServiceServicer,
        schedule_service_pb2_grpc.ScheduleServiceServicer,
    ]
    return [tiny[0](script), tiny[1](script), *(kind() for kind in tiny[2:])]


@dataclass(frozen=True)
class Tiny:
    """A server that runs, and a channel to it."""

    server: GrpcServer
    address: Address
    channel: grpc.aio.Channel
    script: Script
    registry: CollectorRegistry

    @property
    def system(self) -> system_service_pb2_grpc.SystemServiceAsyncStub:
        return system_service_pb2_grpc.SystemServiceStub(self.channel)

    @property
    def executions(self) -> execution_service_pb2_grpc.ExecutionServiceAsyncStub:
        return execution_service_pb2_grpc.ExecutionServiceStub(self.channel)


@asynccontextmanager
async def tiny_server(settings: Settings | None = None) -> AsyncGenerator[Tiny, None]:
    """Run a server on a free port of loopback."""
    script, registry = Script(), CollectorRegistry()
    server = GrpcServer(
        settings or Settings(listen=LOOPBACK), servicers(script), registry, open_to_all
    )
    try:
        address = await server.start()
        async with grpc.aio.insecure_channel(str(address)) as channel:
            yield Tiny(server, address, channel, script, registry)
    finally:
        await server.stop(timedelta(0))
