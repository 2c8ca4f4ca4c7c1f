"""Durable management calls against a bare echo, and pages against the first page."""

from __future__ import annotations

import asyncio
import itertools
import statistics

from skybridge.faas.v1.execution_service_pb2 import StartExecutionRequest
from skybridge.faas.v1.function_pb2 import Function, FunctionSpec
from skybridge.faas.v1.function_service_pb2 import (
    CreateFunctionRequest,
    GetFunctionRequest,
    ListFunctionsRequest,
)
from tests.benchmarks import echo
from tests.benchmarks.harness import Result, Stubs, rate, server, timed
from tests.benchmarks.harness import echo as echo_server

CALLERS = 16
ROUNDS = 5
SECONDS = 2.0
PAGE = 20
PAGES = 1000
SPEC = FunctionSpec(image="docker.io/library/busybox:1.36", env={"GREETING": "hello"})


async def run() -> list[Result]:
    """Measure in turn, so that a drift of the machine hits both."""
    with server() as ours, echo_server() as floor_process:
        async with Stubs(ours.address) as stubs, Stubs(floor_process.address) as floor:
            say = echo.call(floor.channel)
            message = StartExecutionRequest(function="hello", input=b"x" * 1024)
            numbers = itertools.count()

            async def create() -> None:
                await stubs.functions.CreateFunction(
                    CreateFunctionRequest(
                        function_id=f"f-{next(numbers):07}", function=Function(spec=SPEC)
                    )
                )

            async def get() -> None:
                await stubs.functions.GetFunction(GetFunctionRequest(name="f-0000000"))

            echoes: list[float] = []
            creates: list[float] = []
            gets: list[float] = []
            for _ in range(ROUNDS):
                for work, rates in (
                    (lambda: say(message), echoes),
                    (create, creates),
                    (get, gets),
                ):
                    rates.append(await rate(work, callers=CALLERS, seconds=SECONDS))
            while next(numbers) < PAGE * PAGES:
                await asyncio.gather(*(create() for _ in range(CALLERS)))
            return [
                _ratio("create, durable, 16 callers", creates, echoes, 0.4),
                _ratio("get, 16 callers", gets, echoes, 0.6),
                await _pages(stubs),
            ]


def _ratio(name: str, rates: list[float], floor: list[float], bar: float) -> Result:
    ratio = statistics.median(r / f for r, f in zip(rates, floor, strict=True))
    detail = f"{statistics.median(rates):.0f}/s against {statistics.median(floor):.0f}/s"
    return Result(name, ratio, bar, at_most=False, detail=detail)


async def _pages(stubs: Stubs) -> Result:
    """Compare page 1,000 of a list with page 1, read in turn."""
    token = ""
    for _ in range(PAGES - 1):
        answer = await stubs.functions.ListFunctions(
            ListFunctionsRequest(page_size=PAGE, page_token=token)
        )
        token = answer.next_page_token
    assert token, "there is no page 1,000"
    first: list[float] = []
    last: list[float] = []
    for _ in range(200):
        for page_token, seconds in (("", first), (token, last)):
            request = ListFunctionsRequest(page_size=PAGE, page_token=page_token)
            seconds.append(await timed(stubs.functions.ListFunctions(request)))
    ratio = statistics.median(last) / statistics.median(first)
    return Result("page 1,000 of a list against page 1", ratio, 1.5)
