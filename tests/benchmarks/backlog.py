"""Durable StartExecution against a bare echo, what ten thousand that wait cost, and a restart."""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from skybridge.faas.v1.execution_service_pb2 import StartExecutionRequest
from skybridge.faas.v1.function_pb2 import PULL_POLICY_NEVER, FunctionSpec, Scaling
from skybridge.faas.v1.function_service_pb2 import DeleteFunctionRequest
from tests.benchmarks import echo
from tests.benchmarks.harness import BUSYBOX, Result, Stubs, rate, server
from tests.benchmarks.harness import echo as echo_server

CALLERS = 64
ROUNDS = 5
SECONDS = 1.0
QUEUED = 10_000
MIB = 1024 * 1024
SERVICE = "skybridge.faas.v1.ExecutionService"
SPEC = FunctionSpec(
    image=BUSYBOX,
    command=["/bin/sleep", "600"],
    pull_policy=PULL_POLICY_NEVER,
    scaling=Scaling(max_concurrency=1, max_queue_depth=1_000_000),
)


async def run() -> list[Result]:
    """Let one execution run and all others wait, kill the server, and start it again."""
    with TemporaryDirectory() as folder:
        settings = {
            "FAAS_DATABASE": str(Path(folder) / "kept.db"),
            "FAAS_MAX_QUEUED_EXECUTIONS": "1000000",
        }
        with server(**settings) as ours, echo_server() as floor:
            name, started = await _start(ours.address, floor.address)
            full = ours.rss_bytes()
            os.kill(ours.pid, signal.SIGKILL)
        began = time.perf_counter()
        with server(**settings) as again:
            async with Stubs(again.address) as stubs:
                await _serving(stubs)
                recovered = time.perf_counter() - began
                after = again.rss_bytes()
                await stubs.functions.DeleteFunction(DeleteFunctionRequest(name=name, force=True))
    return [
        started,
        Result(f"{QUEUED:,} executions wait, resident", full / MIB, 200, unit="MiB"),
        Result("the same after SIGKILL and a restart", after / MIB, 200, unit="MiB"),
        Result("from that restart until health serves", recovered, 3, unit="s"),
    ]


async def _start(ours: str, floor: str) -> tuple[str, Result]:
    """Measure in turn, then start more until QUEUED wait; return the function, too."""
    async with Stubs(ours) as stubs, Stubs(floor) as bare:
        say = echo.call(bare.channel)
        name = await stubs.deploy_spec(SPEC)
        request = StartExecutionRequest(function=name, input=b"x" * 1024)
        count = 0

        async def start() -> None:
            nonlocal count
            await stubs.executions.StartExecution(request)
            count += 1

        echoes: list[float] = []
        starts: list[float] = []
        for _ in range(ROUNDS):
            echoes.append(await rate(lambda: say(request), callers=CALLERS, seconds=SECONDS))
            starts.append(await rate(start, callers=CALLERS, seconds=SECONDS))
        while count < QUEUED:
            await rate(start, callers=CALLERS, seconds=0.5)
        ratio = statistics.median(s / e for s, e in zip(starts, echoes, strict=True))
        detail = f"{statistics.median(starts):.0f}/s against {statistics.median(echoes):.0f}/s"
        title = f"StartExecution, durable, {CALLERS} callers"
        return name, Result(title, ratio, 0.6, at_most=False, detail=detail)


async def _serving(stubs: Stubs) -> None:
    health: Any = health_pb2_grpc.HealthStub(stubs.channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    async for answer in health.Watch(request):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
