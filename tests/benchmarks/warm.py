"""Executions on a warm instance against a bare echo on the same processor core.

The server and the bare echo have the first core, in turn; the callers and the function the second.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1.execution_pb2 import EXECUTION_STATE_SUCCEEDED
from skybridge.faas.v1.execution_service_pb2 import ExecuteFunctionRequest, StartExecutionRequest
from skybridge_server.contracts.connections import MAX_IDLE
from tests.benchmarks import echo, many, thin
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import PYTHON, Process, Result, Stubs, server
from tests.benchmarks.harness import echo as echo_server
from tests.benchmarks.picture import draw

PAYLOAD = b"x" * 1024
CALLERS = (1, 8, 32, 64, 256)
ROUNDS = 5
SECONDS = 1.5
MANY = 10_000
"""Executions on one instance, after which nothing may have piled up."""
SERVER_CORE, CALLER_CORE = {0}, {1}


@dataclass
class Load:
    """What one number of callers measured of one kind of call, round by round."""

    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of the serving process, for each call."""
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)


@dataclass
class Kind:
    """One kind of call."""

    name: str
    call: Callable[[], Awaitable[None]]
    process: Process
    loads: dict[int, Load] = field(default_factory=lambda: {n: Load() for n in CALLERS})

    @property
    def medians(self) -> dict[int, float]:
        """Milliseconds of a call, by number of callers."""
        return {n: statistics.median(load.p50s) * 1e3 for n, load in self.loads.items()}


async def run(picture: Path | None = None) -> list[Result]:
    """Measure in turn, so that a drift of the machine hits all; draw it where that is asked for."""
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, CALLER_CORE)
    try:
        return await _run(picture)
    finally:
        os.sched_setaffinity(0, cores)


async def _run(picture: Path | None) -> list[Result]:
    with _pinned_server() as ours, echo_server() as floor:
        floor.pin(SERVER_CORE)
        async with Stubs(ours.address) as stubs, Stubs(floor.address) as bare:
            say = echo.call(bare.channel)
            message = StartExecutionRequest(function="hello", input=PAYLOAD)

            async def echoes() -> None:
                await say(message)

            functions = await _functions(stubs)
            requests = {
                durability: ExecuteFunctionRequest(function=function, input=PAYLOAD)
                for durability, function in functions.items()
            }
            kinds = [
                Kind("bare echo", echoes, floor),
                *(
                    Kind(f"warm, {durability}", _executing(stubs, request), ours)
                    for durability, request in requests.items()
                ),
            ]
            await _rounds(kinds)
            results = _results(*kinds)
            results.extend(await _many(kinds[1]))
    _print_table(kinds)
    if picture is not None:
        draw({kind.name: kind.medians for kind in kinds}, picture)
    return [*results, *await _many_at_once(), *await _thin()]


# Each has a server of its own: what was stored before is still being written to the disk.


async def _many_at_once() -> list[Result]:
    with _pinned_server() as ours:
        async with Stubs(ours.address) as stubs:
            function = (await _functions(stubs))["COMMITTED"]
            return await many.run(stubs, ExecuteFunctionRequest(function=function, input=PAYLOAD))


async def _thin() -> list[Result]:
    with _pinned_server() as ours:
        async with Stubs(ours.address) as stubs:
            functions = await _functions(stubs)
        return await thin.run(ours.address, functions)


@contextmanager
def _pinned_server() -> Iterator[Process]:
    with server(FAAS_MAX_CONCURRENT_EXECUTIONS="300") as ours:
        ours.pin(SERVER_CORE)
        yield ours


async def _rounds(kinds: list[Kind]) -> None:
    for kind in kinds:
        await _measure(kind, 8, Load())  # warms up
    for callers, _ in itertools.product(CALLERS, range(ROUNDS)):
        for kind in kinds:
            await _measure(kind, callers, kind.loads[callers])


async def _functions(stubs: Stubs) -> dict[str, str]:
    """Deploy the function that echoes, on one instance, once with each durability."""
    program = Path(__file__).with_name("http_echo.py").read_text()
    engine = Bare()
    functions = {}
    for durability in ("COMMITTED", "DEFERRED"):
        functions[durability] = name = await stubs.deploy_spec(
            function_pb2.FunctionSpec(
                image=PYTHON,
                command=["python3", "-c", program],
                pull_policy=function_pb2.PULL_POLICY_NEVER,
                contract=function_pb2.Contract(kind=function_pb2.CONTRACT_KIND_HTTP),
                scaling=function_pb2.Scaling(
                    min_instances=1, max_instances=1, instance_concurrency=300
                ),
                durability=function_pb2.Durability.Value(f"DURABILITY_{durability}"),
            )
        )
        engine.pin(name, CALLER_CORE)
    return functions


def _executing(stubs: Stubs, request: ExecuteFunctionRequest) -> Callable[[], Awaitable[None]]:
    async def execute() -> None:
        answer = await stubs.executions.ExecuteFunction(request)
        assert answer.execution.state == EXECUTION_STATE_SUCCEEDED, answer
        assert answer.execution.output == PAYLOAD, answer

    return execute


async def _measure(kind: Kind, callers: int, load: Load) -> None:
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            await kind.call()
            seconds.append(time.perf_counter() - began)

    cpu, began = kind.process.cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    load.rates.append(len(seconds) / (time.perf_counter() - began))
    load.cpu_seconds.append((kind.process.cpu_seconds() - cpu) / len(seconds))
    percentiles = statistics.quantiles(seconds, n=100)
    load.p50s.append(percentiles[49])
    load.p99s.append(percentiles[98])


def _results(floor: Kind, committed: Kind, deferred: Kind) -> list[Result]:
    one, sixty_four = 1, 64
    return [
        _ratio(
            "warm, processor time, 64 callers", committed, floor, sixty_four, "cpu_seconds", 1.3
        ),
        _ratio("warm, median, 1 caller", committed, floor, one, "p50s", 2.5),
        _ratio("warm DEFERRED, median, 1 caller", deferred, floor, one, "p50s", 1.5),
        _ratio("warm, 64 callers", committed, floor, sixty_four, "rates", 0.75, at_most=False),
        Result(
            "warm, 64 callers, p99 against p50",
            statistics.median(
                p99 / p50
                for p99, p50 in zip(
                    committed.loads[sixty_four].p99s, committed.loads[sixty_four].p50s, strict=True
                )
            ),
            4,
        ),
    ]


def _ratio(
    name: str,
    kind: Kind,
    floor: Kind,
    callers: int,
    figure: str,
    bar: float,
    *,
    at_most: bool = True,
) -> Result:
    ours: list[float] = getattr(kind.loads[callers], figure)
    bare: list[float] = getattr(floor.loads[callers], figure)
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    a, b = statistics.median(ours), statistics.median(bare)
    if figure == "rates":
        detail = f"{a:.0f}/s against {b:.0f}/s"
    else:
        detail = f"{a * 1e6:.0f} us against {b * 1e6:.0f} us"
    return Result(name, ratio, bar, at_most=at_most, detail=detail)


async def _many(kind: Kind) -> list[Result]:
    """Execute very often on one instance, and see what has piled up."""
    # What 256 callers needed is let go of first: it would hide as much that piles up.
    await asyncio.sleep(MAX_IDLE)
    await kind.call()
    memory, descriptors = kind.process.rss_bytes(), kind.process.descriptors()
    for _ in range(MANY // 50):
        await asyncio.gather(*(kind.call() for _ in range(50)))
    await asyncio.sleep(MAX_IDLE)
    await kind.call()
    grown = (kind.process.rss_bytes() - memory) / (1 << 20)
    return [
        Result(f"growth after {MANY:,} executions", grown, 10, "MiB"),
        Result("descriptors more by then", kind.process.descriptors() - descriptors, 0, ""),
    ]


def _print_table(kinds: list[Kind]) -> None:
    print(f"{'calls a second (p50 / p99 ms), callers:':<42}" + "".join(f"{n:>22}" for n in CALLERS))
    for kind in kinds:
        cells = (
            f"{statistics.median(load.rates):.0f} "
            f"({statistics.median(load.p50s) * 1e3:.2f} / {statistics.median(load.p99s) * 1e3:.2f})"
            for load in kind.loads.values()
        )
        print(f"{kind.name:<42}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
