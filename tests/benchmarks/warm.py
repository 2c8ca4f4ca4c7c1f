"""Warm executions over HTTP, with a durable record, against a bare grpc.aio echo.

All servers run at once, pinned to one core, and take turns; the callers have the other core.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1.execution_pb2 import ExecutionState
from skybridge.faas.v1.execution_service_pb2 import ExecuteFunctionRequest, StartExecutionRequest
from tests.benchmarks import echo as bare
from tests.benchmarks.harness import PYTHON, Process, Result, Stubs, echo, server

PAYLOAD = b"x" * 1024
CALLERS = 64
ROUNDS = 5
SECONDS = 1.5
FUNCTION = r"""
import asyncio, os

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self.data = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + body)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "", int(os.environ["PORT"]))
    await server.serve_forever()

asyncio.run(main())
"""
"""Costs as little as a function in Python can: what is measured is the server."""

Call = Callable[[], Awaitable[object]]


@dataclass
class Runs:
    """What one server did, round by round."""

    process: Process
    call: Call
    alone: list[float] = field(default_factory=list)
    """Median seconds of a call, with one caller."""
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Processor seconds of a call, with many callers."""
    tails: list[float] = field(default_factory=list)
    """99th percentile over the median, with many callers."""

    async def one_caller(self) -> None:
        self.alone.append(statistics.median(await _latencies(self.call, 1)))

    async def many_callers(self) -> None:
        before = self.process.cpu_seconds()
        began = time.perf_counter()
        latencies = sorted(await _latencies(self.call, CALLERS))
        count = len(latencies)
        self.rates.append(count / (time.perf_counter() - began))
        self.cpu.append((self.process.cpu_seconds() - before) / count)
        self.tails.append(latencies[count * 99 // 100] / latencies[count // 2])


async def _latencies(call: Call, callers: int) -> list[float]:
    end = time.perf_counter() + SECONDS
    found: list[float] = []

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            await call()
            found.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return found


async def _deploy(stubs: Stubs, durability: function_pb2.Durability.ValueType) -> Call:
    name = await stubs.deploy_spec(
        function_pb2.FunctionSpec(
            image=PYTHON,
            command=["python3", "-c", FUNCTION],
            pull_policy=function_pb2.PULL_POLICY_NEVER,
            contract=function_pb2.Contract(kind=function_pb2.CONTRACT_KIND_HTTP),
            scaling=function_pb2.Scaling(
                instance_concurrency=CALLERS, min_instances=1, max_instances=1
            ),
            durability=durability,
        )
    )

    async def call() -> None:
        request = ExecuteFunctionRequest(function=name, input=PAYLOAD)
        execution = (await stubs.executions.ExecuteFunction(request)).execution
        assert execution.state == ExecutionState.EXECUTION_STATE_SUCCEEDED, execution

    return call


async def run() -> list[Result]:
    """Measure."""
    async with AsyncExitStack() as opened:
        floor = opened.enter_context(echo())
        ours = opened.enter_context(server(FAAS_MAX_CONCURRENT_EXECUTIONS="256"))
        for process in (floor, ours):
            process.pin({0})
        floor_stubs = await opened.enter_async_context(Stubs(floor.address))
        stubs = await opened.enter_async_context(Stubs(ours.address))
        echo_call = bare.call(floor_stubs.channel)
        message = StartExecutionRequest(input=PAYLOAD)
        runs = {
            "echo": Runs(floor, lambda: echo_call(message)),
            "committed": Runs(ours, await _deploy(stubs, function_pb2.DURABILITY_COMMITTED)),
            "deferred": Runs(ours, await _deploy(stubs, function_pb2.DURABILITY_DEFERRED)),
        }
        for _ in range(ROUNDS):
            for each in runs.values():
                await each.one_caller()
            for each in runs.values():
                await each.many_callers()
        return _results(runs["echo"], runs["committed"], runs["deferred"])


def _results(floor: Runs, committed: Runs, deferred: Runs) -> list[Result]:
    def ratio(name: str, ours: list[float], theirs: list[float], bar: float) -> Result:
        mine, other = statistics.median(ours), statistics.median(theirs)
        detail = f"{mine * 1e6:.0f} us to {other * 1e6:.0f} us"
        return Result(f"warm: {name}", mine / other, bar, detail=detail)

    rate, bare_rate = statistics.median(committed.rates), statistics.median(floor.rates)
    return [
        ratio("CPU of an execution", committed.cpu, floor.cpu, 1.3),
        ratio("p50, one caller", committed.alone, floor.alone, 2.5),
        ratio("p50, one caller, deferred", deferred.alone, floor.alone, 1.5),
        Result(
            f"warm: rate of {CALLERS} callers",
            rate / bare_rate,
            0.75,
            at_most=False,
            detail=f"{rate:.0f}/s to {bare_rate:.0f}/s",
        ),
        Result(f"warm: p99 over p50, {CALLERS} callers", statistics.median(committed.tails), 4),
    ]
