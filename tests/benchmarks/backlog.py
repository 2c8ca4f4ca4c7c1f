"""Durable StartExecution against a bare echo, what thousands that wait cost, and a restart."""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skybridge.faas.v1.execution_service_pb2 import ListExecutionsRequest, StartExecutionRequest
from skybridge.faas.v1.function_pb2 import PULL_POLICY_NEVER, FunctionSpec, Scaling, Timeouts
from skybridge.faas.v1.function_service_pb2 import DeleteFunctionRequest
from tests.benchmarks import echo
from tests.benchmarks.harness import BUSYBOX, Result, Stubs, rate, server
from tests.benchmarks.harness import echo as echo_server
from tests.support.waiting import until

CALLERS = 64
ROUNDS = 5
SECONDS = 1.0
QUEUED = 10_000
RUNNING = 100
PATIENCE = 300
"""Seconds for all of RUNNING to run, and for a restarted server to know of them."""
MIB = 1024 * 1024
SERVICE = "skybridge.faas.v1.ExecutionService"
ADOPTED = b'"execution adopted"'


def _spec(most: int) -> FunctionSpec:
    """Return a function that sleeps, of which so many may run at once."""
    return FunctionSpec(
        image=BUSYBOX,
        command=["/bin/sleep", "900"],
        pull_policy=PULL_POLICY_NEVER,
        timeouts=Timeouts(execution=Duration(seconds=900)),
        scaling=Scaling(max_concurrency=most, max_queue_depth=1_000_000),
    )


async def run() -> list[Result]:
    """Let some executions run and many wait, kill the server, and start it again."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        settings = {
            "FAAS_DATABASE": str(Path(folder) / "kept.db"),
            "FAAS_MAX_CONCURRENT_EXECUTIONS": str(RUNNING + 1),
            "FAAS_MAX_QUEUED_EXECUTIONS": "1000000",
        }
        with server(**settings) as ours, echo_server() as floor:
            async with Stubs(ours.address) as stubs:
                waiting, started = await _start(stubs, floor.address)
                running = await _run(stubs)
            full = ours.rss_bytes()
            os.kill(ours.pid, signal.SIGKILL)
        began = time.perf_counter()
        with server(log, **settings) as again:
            async with Stubs(again.address) as stubs:
                await _serving(stubs)
                recovered = time.perf_counter() - began
                await _adopted(log)
                adopted = time.perf_counter() - began
                after = again.rss_bytes()
                for name in (waiting, running):
                    request = DeleteFunctionRequest(name=name, force=True)
                    await stubs.functions.DeleteFunction(request)
    return [
        started,
        Result(f"{RUNNING} run and {QUEUED:,} wait, resident", full / MIB, 200, unit="MiB"),
        Result("the same after SIGKILL and a restart", after / MIB, 200, unit="MiB"),
        Result("from that restart until health serves", recovered, 3, unit="s"),
        Result("from that restart until all are adopted", adopted, 10, unit="s"),
    ]


async def _start(stubs: Stubs, floor: str) -> tuple[str, Result]:
    """Measure in turn, then start more until QUEUED wait; return the function, too."""
    async with Stubs(floor) as bare:
        say = echo.call(bare.channel)
        name = await stubs.deploy_spec(_spec(1))
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


async def _run(stubs: Stubs) -> str:
    """Start RUNNING executions, and wait until all of them run; return their function."""
    name = await stubs.deploy_spec(_spec(RUNNING))
    for _ in range(RUNNING):
        await stubs.executions.StartExecution(StartExecutionRequest(function=name))
    query = ListExecutionsRequest(
        filter=f'function = "{name}" AND state = RUNNING', page_size=RUNNING
    )

    async def all_run() -> bool:
        return len((await stubs.executions.ListExecutions(query)).executions) == RUNNING

    await until(all_run, "all to run", PATIENCE)
    return name


async def _adopted(log: Path) -> None:
    """Wait until a server has told that it follows all that ran."""

    async def all_followed() -> bool:
        return log.read_bytes().count(ADOPTED) > RUNNING  # and the one of the others

    await until(all_followed, "all to be adopted", PATIENCE)


async def _serving(stubs: Stubs) -> None:
    health: Any = health_pb2_grpc.HealthStub(stubs.channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    async for answer in health.Watch(request):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
