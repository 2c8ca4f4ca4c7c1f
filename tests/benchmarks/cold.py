"""Cold executions against bare docker-py cycles, one after the other and eight at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from skybridge.faas.v1.execution_pb2 import EXECUTION_STATE_SUCCEEDED
from skybridge.faas.v1.execution_service_pb2 import ExecuteFunctionRequest
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import Result, Stubs, milliseconds, server, timed

SCRIPT = "echo hello"
PAIRS = 31
CALLERS = 8
ROUNDS = 5
CYCLES = 24


async def run() -> list[Result]:
    """Measure, in turn, so that a drift of the machine hits both."""
    bare = Bare()
    with server() as ours:
        async with Stubs(ours.address) as stubs:
            name = await stubs.deploy(SCRIPT)

            async def execute() -> None:
                answer = await stubs.executions.ExecuteFunction(
                    ExecuteFunctionRequest(function=name)
                )
                assert answer.execution.state == EXECUTION_STATE_SUCCEEDED
                assert answer.execution.output == b"hello\n"

            return [await _one_by_one(bare, execute), await _together(bare, execute)]


async def _one_by_one(bare: Bare, execute: object) -> Result:
    floor, cold = [], []
    for _ in range(PAIRS):
        floor.append(await asyncio.to_thread(bare.cycle, SCRIPT))
        cold.append(await timed(execute()))  # type: ignore[operator]
    ratio = statistics.median(cold) / statistics.median(floor)
    detail = f"{milliseconds(cold)} against {milliseconds(floor)}"
    return Result("cold execution, median", ratio, 1.05, detail=detail)


async def _together(bare: Bare, execute: object) -> Result:
    ratios, ours, floors = [], [], []
    with ThreadPoolExecutor(CALLERS) as threads:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await asyncio.to_thread(lambda: list(threads.map(bare.cycle, [SCRIPT] * CYCLES)))
            floor = CYCLES / (time.perf_counter() - began)
            began = time.perf_counter()
            await asyncio.gather(*(_repeat(execute) for _ in range(CALLERS)))
            rate = CYCLES / (time.perf_counter() - began)
            ratios.append(rate / floor)
            ours.append(rate)
            floors.append(floor)
    detail = f"{statistics.median(ours):.2f}/s against {statistics.median(floors):.2f}/s"
    return Result(
        "cold executions, 8 callers",
        statistics.median(ratios),
        0.95,
        at_most=False,
        detail=detail,
    )


async def _repeat(execute: object) -> None:
    for _ in range(CYCLES // CALLERS):
        await execute()  # type: ignore[operator]
