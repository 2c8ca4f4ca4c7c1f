"""The whole server over a store and an engine in memory, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from prometheus_client import CollectorRegistry

from skybridge.faas.v1 import (
    dead_letter_service_pb2_grpc,
    execution_pb2,
    execution_service_pb2,
    execution_service_pb2_grpc,
    function_pb2,
    function_service_pb2,
    function_service_pb2_grpc,
    instance_service_pb2_grpc,
    metrics_service_pb2_grpc,
    schedule_service_pb2_grpc,
    secret_service_pb2_grpc,
    system_service_pb2_grpc,
    token_service_pb2_grpc,
)
from skybridge_server.api.access import Access
from skybridge_server.api.server import GrpcServer
from skybridge_server.app import Services, servicers, wire
from skybridge_server.config import Address, Settings
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.services.clock import SYSTEM_CLOCK
from skybridge_server.services.engines import Engines
from skybridge_server.services.limits import Limits
from skybridge_server.services.shutdown import Shutdown
from skybridge_server.services.tokens import TokenService
from tests.fakes.repositories import FakeRepositories
from tests.fakes.runtime import IMAGE, FakeRuntime
from tests.limits import LIMITS
from tests.support.waiting import PATIENCE

BUSYBOX = "docker.io/library/busybox:latest"
HEARTBEAT = timedelta(milliseconds=50)


@dataclass(frozen=True)
class Served:
    """A server that runs, its engine, and a stub for each service."""

    runtime: FakeRuntime
    services: Services
    channel: grpc.aio.Channel
    shutdown: Shutdown
    functions: function_service_pb2_grpc.FunctionServiceAsyncStub
    executions: execution_service_pb2_grpc.ExecutionServiceAsyncStub
    dead_letters: dead_letter_service_pb2_grpc.DeadLetterServiceAsyncStub
    schedules: schedule_service_pb2_grpc.ScheduleServiceAsyncStub
    metrics: metrics_service_pb2_grpc.MetricsServiceAsyncStub
    system: system_service_pb2_grpc.SystemServiceAsyncStub
    instances: instance_service_pb2_grpc.InstanceServiceAsyncStub
    tokens: token_service_pb2_grpc.TokenServiceAsyncStub
    secrets: secret_service_pb2_grpc.SecretServiceAsyncStub

    async def create(self, name: str = "hello", **fields: Any) -> function_pb2.Function:
        """Create a function; fields of it are given as dictionaries."""
        fields.setdefault("spec", {"image": "busybox"})
        answer = await self.functions.CreateFunction(
            function_service_pb2.CreateFunctionRequest(
                function_id=name, function=function_pb2.Function(**fields)
            ),
            timeout=PATIENCE,
        )
        return answer.function

    async def deploy(self, name: str = "hello") -> function_pb2.Revision:
        request = function_service_pb2.DeployFunctionRequest(name=name)
        steps = [step async for step in self.functions.DeployFunction(request, timeout=PATIENCE)]
        return steps[-1].revision

    async def start(self, name: str = "hello") -> execution_pb2.Execution:
        answer = await self.executions.StartExecution(
            execution_service_pb2.StartExecutionRequest(function=name), timeout=PATIENCE
        )
        return answer.execution

    async def state(self, execution: str) -> int:
        answer = await self.executions.GetExecution(
            execution_service_pb2.GetExecutionRequest(name=execution), timeout=PATIENCE
        )
        return answer.execution.state

    async def ended(self, execution: str) -> execution_pb2.Execution:
        """Wait for the end of an execution."""
        answer = await self.executions.WaitExecution(
            execution_service_pb2.WaitExecutionRequest(name=execution), timeout=PATIENCE
        )
        assert answer.execution.HasField("end_time")
        return answer.execution


@asynccontextmanager
async def serve(limits: Limits = LIMITS, admin_token: str = "") -> AsyncGenerator[Served, None]:
    """Run a server on a free port of loopback; the engine has busybox."""
    runtime = FakeRuntime("docker")
    runtime.images.present[BUSYBOX] = IMAGE
    engines = Engines({"docker": runtime}, "docker")
    registry = CollectorRegistry()
    repositories = FakeRepositories()
    services = wire(repositories, engines, limits, registry, "server-id")
    tokens = TokenService(repositories.tokens, SYSTEM_CLOCK, admin_token)
    settings = Settings(listen=Address("127.0.0.1", 0))
    shutdown = Shutdown(asyncio.Event(), timedelta(), ShutdownPolicy.CANCEL)
    answering = servicers(services, tokens, limits, HEARTBEAT, shutdown)
    server = GrpcServer(settings, answering, registry, Access(tokens).guard)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(engines.close)
        await engines.open()
        opened.push_async_callback(services.registry.close, 0.0)
        opened.push_async_callback(services.deployments.close)
        opened.push_async_callback(server.stop, timedelta(0))
        address = await server.start()
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(str(address)))
        yield Served(
            runtime,
            services,
            channel,
            shutdown,
            function_service_pb2_grpc.FunctionServiceStub(channel),
            execution_service_pb2_grpc.ExecutionServiceStub(channel),
            dead_letter_service_pb2_grpc.DeadLetterServiceStub(channel),
            schedule_service_pb2_grpc.ScheduleServiceStub(channel),
            metrics_service_pb2_grpc.MetricsServiceStub(channel),
            system_service_pb2_grpc.SystemServiceStub(channel),
            instance_service_pb2_grpc.InstanceServiceStub(channel),
            token_service_pb2_grpc.TokenServiceStub(channel),
            secret_service_pb2_grpc.SecretServiceStub(channel),
        )


@dataclass(frozen=True)
class Refusal:
    """What a caller is told of an error."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: list[str]
    """Paths of the wrong fields."""


async def refusal(call: Callable[[], Awaitable[Any]]) -> Refusal:
    """Return how a call is refused; fails if it is not."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    error, bad, info = caught.value, BadRequest(), ErrorInfo()
    trailers = error.trailing_metadata()
    assert trailers is not None
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(bad)
        detail.Unpack(info)
    fields = [violation.field for violation in bad.field_violations]
    return Refusal(error.code(), error.details() or "", info.reason, fields)


async def all_of(stream: Any) -> list[Any]:
    """Read a stream to its end."""
    return [message async for message in stream]
