"""Many executions on one call against as many calls, with as many under way at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge.faas.v1.execution_pb2 import EXECUTION_STATE_SUCCEEDED, Execution
from tests.benchmarks.harness import Result, Stubs

UNDER_WAY = 64
BATCH = 32
ROUNDS = 5
SECONDS = 1.5

Measure = Callable[[float], Awaitable[int]]
"""Executes until a time of the clock, and returns how often."""


async def run(stubs: Stubs, request: pb.ExecuteFunctionRequest) -> list[Result]:
    """Measure in turn, so that a drift of the machine hits all."""
    many = _Many(stubs, request)
    ways: dict[str, Measure] = {
        "unary": many.unary,
        "InvokeStream": many.stream,
        f"ExecuteBatch of {BATCH}": many.batches,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, measure in ways.items():
            began = time.perf_counter()
            count = await measure(began + SECONDS)
            rates[name].append(count / (time.perf_counter() - began))
    unary, stream, batches = rates
    return [_ratio(rates, stream, unary, 1.8), _ratio(rates, batches, unary, 4)]


def _ratio(rates: dict[str, list[float]], name: str, floor: str, bar: float) -> Result:
    pairs = zip(rates[name], rates[floor], strict=True)
    ours, others = statistics.median(rates[name]), statistics.median(rates[floor])
    return Result(
        f"{name} against unary, {UNDER_WAY} under way",
        statistics.median(a / b for a, b in pairs),
        bar,
        at_most=False,
        detail=f"{ours:.0f}/s against {others:.0f}/s",
    )


class _Many:
    """The ways to execute a function often."""

    def __init__(self, stubs: Stubs, request: pb.ExecuteFunctionRequest) -> None:
        self._stubs = stubs
        self._request = request

    async def unary(self, end: float) -> int:
        async def caller() -> int:
            count = 0
            while time.perf_counter() < end:
                answer = await self._stubs.executions.ExecuteFunction(self._request)
                self._check(answer.execution)
                count += 1
            return count

        return sum(await asyncio.gather(*(caller() for _ in range(UNDER_WAY))))

    async def stream(self, end: float) -> int:
        """Send as many as were answered, again and again."""
        call: Any = self._stubs.executions.InvokeStream()
        sent, answered = UNDER_WAY, 0
        await call.write(self._invocations(0, sent, window=UNDER_WAY))
        while answered < sent:
            answers = (await call.read()).answers
            for answer in answers:
                self._check(answer.execution)
            answered += len(answers)
            if time.perf_counter() < end:
                await call.write(self._invocations(sent, len(answers)))
                sent += len(answers)
        await call.done_writing()
        return answered

    def _invocations(self, start: int, count: int, window: int = 0) -> pb.InvokeStreamRequest:
        ids = map(str, range(start, start + count))
        return pb.InvokeStreamRequest(
            invocations=[pb.Invocation(id=each, execute=self._request) for each in ids],
            window=window,
        )

    async def batches(self, end: float) -> int:
        request = pb.ExecuteBatchRequest(requests=[self._request] * BATCH)

        async def caller() -> int:
            count = 0
            while time.perf_counter() < end:
                answer = await self._stubs.executions.ExecuteBatch(request)
                for result in answer.results:
                    self._check(result.execution)
                count += BATCH
            return count

        return sum(await asyncio.gather(*(caller() for _ in range(UNDER_WAY // BATCH))))

    def _check(self, execution: Execution) -> None:
        assert execution.state == EXECUTION_STATE_SUCCEEDED, execution
        assert execution.output == self._request.input
