"""Cold executions against bare docker-py cycles, one after the other and eight at a time.

Once with networks of their own, once with those that sandboxes keep, once on containers that were
created ahead, with such networks.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1.execution_pb2 import EXECUTION_STATE_SUCCEEDED
from skybridge.faas.v1.execution_service_pb2 import ExecuteFunctionRequest
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import BUSYBOX, PYTHON, Result, Stubs, milliseconds, server, timed

SCRIPT = "echo hello"
PAIRS = 31
CALLERS = 8
ROUNDS = 9
CYCLES = 24
WARM_UP = 6
"""Rounds of all callers until there is a sandbox for each."""


async def _removed() -> None:
    """Give a server the time to remove what has ended: that follows the answer."""
    await asyncio.sleep(0.2)


@dataclass
class Kind:
    """One way to execute, its bars, and what was measured."""

    name: str
    most_time: float
    """Of the time of a bare cycle."""
    least_rate: float
    """Of the rate of bare cycles."""
    execute: Callable[[], Awaitable[None]]
    rest: Callable[[], Awaitable[None]] = _removed
    """Waits until it does nothing more in the background."""
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    async def cycles(self, count: int) -> None:
        """Execute as often, by all callers together."""
        await asyncio.gather(*(self._repeat(count // CALLERS) for _ in range(CALLERS)))

    async def _repeat(self, count: int) -> None:
        for _ in range(count):
            await self.execute()


async def run() -> list[Result]:
    """Measure, in turn, so that a drift of the machine hits all."""
    bare = Bare()
    async with (
        _executing(FAAS_NETWORK_SANDBOXES="0") as (_, plainly),
        _executing() as (_, in_sandbox),
        _executing(ahead=CALLERS, FAAS_NETWORK_SANDBOXES=str(3 * CALLERS)) as (name, created_ahead),
    ):

        async def all_created() -> None:
            while bare.created_ahead(name) < CALLERS:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.02)
            await _removed()

        kinds = [
            Kind("cold", 1.05, 0.95, plainly),
            Kind("cold in sandboxes", 0.70, 1.6, in_sandbox),
            Kind("cold created ahead", 0.70, 1.0, created_ahead, all_created),
        ]
        await kinds[1].cycles(WARM_UP * CALLERS)
        results = [*await _one_by_one(bare, kinds), *await _together(bare, kinds)]
    return [*results, await _first_of_http(bare)]


async def _first_of_http(bare: Bare) -> Result:
    """Measure the first execution on an instance, each on one of its own."""
    program = Path(__file__).with_name("http_echo.py").read_text()
    floor, ours = [], []
    with server() as process:
        async with Stubs(process.address) as stubs:
            name = await stubs.deploy_spec(
                function_pb2.FunctionSpec(
                    image=PYTHON,
                    command=["python3", "-c", program],
                    pull_policy=function_pb2.PULL_POLICY_NEVER,
                    contract=function_pb2.Contract(kind=function_pb2.CONTRACT_KIND_HTTP),
                    scaling=function_pb2.Scaling(reuse=function_pb2.REUSE_NEVER),
                    timeouts=function_pb2.Timeouts(shutdown_grace=Duration()),
                )
            )
            request = ExecuteFunctionRequest(function=name, input=b"hello")

            async def execute() -> None:
                answer = await stubs.executions.ExecuteFunction(request)
                assert answer.execution.output == b"hello", answer
                assert answer.execution.cold_start

            await execute()
            for _ in range(PAIRS):
                floor.append(await asyncio.to_thread(bare.first_answer, program))
                ours.append(await timed(execute()))
    return Result(
        "first execution of an HTTP function, median",
        statistics.median(ours) / statistics.median(floor),
        1.10,
        detail=f"{milliseconds(ours)} against {milliseconds(floor)}",
    )


@asynccontextmanager
async def _executing(
    ahead: int = 0, **settings: str
) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Run a server; yields the id of a function and what executes it there once."""
    with server(**settings) as ours:
        async with Stubs(ours.address) as stubs:
            name = await stubs.deploy_spec(
                function_pb2.FunctionSpec(
                    image=BUSYBOX,
                    command=["/bin/sh", "-c", SCRIPT],
                    pull_policy=function_pb2.PULL_POLICY_NEVER,
                    scaling=function_pb2.Scaling(min_instances=ahead),
                )
            )
            request = ExecuteFunctionRequest(function=name)

            async def execute() -> None:
                answer = await stubs.executions.ExecuteFunction(request)
                assert answer.execution.state == EXECUTION_STATE_SUCCEEDED
                assert answer.execution.output == b"hello\n"

            yield name, execute


async def _one_by_one(bare: Bare, kinds: list[Kind]) -> list[Result]:
    floor = []
    for _ in range(PAIRS):
        floor.append(await asyncio.to_thread(bare.cycle, SCRIPT))
        for kind in kinds:
            kind.seconds.append(await timed(kind.execute()))
            await kind.rest()
    return [
        Result(
            f"{kind.name}, median",
            statistics.median(kind.seconds) / statistics.median(floor),
            kind.most_time,
            detail=f"{milliseconds(kind.seconds)} against {milliseconds(floor)}",
        )
        for kind in kinds
    ]


async def _together(bare: Bare, kinds: list[Kind]) -> list[Result]:
    floors = []
    with ThreadPoolExecutor(CALLERS) as threads:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await asyncio.to_thread(lambda: list(threads.map(bare.cycle, [SCRIPT] * CYCLES)))
            floors.append(CYCLES / (time.perf_counter() - began))
            for kind in kinds:
                kind.rates.append(CYCLES / await timed(kind.cycles(CYCLES)))
                await kind.rest()
                kind.ratios.append(kind.rates[-1] / floors[-1])
    return [
        Result(
            f"{kind.name}, {CALLERS} callers",
            statistics.median(kind.ratios),
            kind.least_rate,
            at_most=False,
            detail=f"{statistics.median(kind.rates):.2f}/s against "
            f"{statistics.median(floors):.2f}/s",
        )
        for kind in kinds
    ]
