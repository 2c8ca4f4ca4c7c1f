"""Output: rate, memory, a reader that stalls, and the first byte, against a bare attach."""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator

from skybridge.faas.v1.execution_pb2 import (
    EXECUTION_STATE_RUNNING,
    EXECUTION_STATE_SUCCEEDED,
    OUTPUT_STREAM_STDOUT,
)
from skybridge.faas.v1.execution_service_pb2 import (
    StartExecutionRequest,
    StreamExecutionRequest,
    WatchExecutionRequest,
    WatchExecutionResponse,
)
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import Process, Result, Stubs, server

MIB = 1024 * 1024
SIZE = 256 * MIB
# One line of 64 digits over and over, cut to size: quick to make, and known without the function.
LINE = b"0123456789abcdef" * 3 + b"0123456789abcde\n"
SCRIPT = f"yes {LINE.decode().strip()} | head -c {SIZE}"
ROUNDS = 5
STALL_SECONDS = 60
FIRST_BYTES = 21


async def run() -> list[Result]:
    """Measure in turn, so that a drift of the machine hits both."""
    bare = Bare()
    with server() as ours:
        async with Stubs(ours.address) as stubs:
            name = await stubs.deploy(SCRIPT, output_bytes=SIZE)
            rates = await _rates(bare, stubs, name, ours)
            stalled = await _stalled_reader(stubs, name, ours.address)
            first = await _first_byte(bare, stubs)
    return [*rates, stalled, first]


async def _rates(bare: Bare, stubs: Stubs, name: str, ours: Process) -> list[Result]:
    floors, rates, growth = [], [], 0
    for _ in range(ROUNDS):
        seconds = await asyncio.to_thread(bare.read, SCRIPT, SIZE)
        floors.append(SIZE / MIB / seconds)
        before = ours.rss_bytes()
        watch = asyncio.create_task(_peak(ours))
        began = time.perf_counter()
        digest, first = await _stream(stubs, name)
        rates.append(SIZE / MIB / (time.perf_counter() - began - first))
        watch.cancel()
        growth = max(growth, max(await watch) - before)
        assert digest == _expected(), "not the bytes that the function wrote"
    ratio = statistics.median(rates) / statistics.median(floors)
    detail = f"{statistics.median(rates):.0f} MiB/s against {statistics.median(floors):.0f} MiB/s"
    return [
        Result("256 MiB of stdout, rate", ratio, 0.4, at_most=False, detail=detail),
        Result("256 MiB of stdout, growth of the server", growth / MIB, 48, unit="MiB"),
    ]


async def _peak(ours: Process) -> list[int]:
    """Sample the memory of the server until cancelled."""
    samples = [ours.rss_bytes()]
    try:
        while True:
            await asyncio.sleep(0.05)
            samples.append(ours.rss_bytes())
    except asyncio.CancelledError:
        return samples


async def _stream(stubs: Stubs, name: str) -> tuple[str, float]:
    """Stream an execution; return the digest of stdout, and the seconds to its first byte."""
    began = time.perf_counter()
    digest, first = hashlib.sha256(), 0.0
    async for answer in stubs.executions.StreamExecution(StreamExecutionRequest(function=name)):
        event = answer.event
        if event.HasField("output") and event.output.stream == OUTPUT_STREAM_STDOUT:
            first = first or time.perf_counter() - began
            digest.update(event.output.data)
        if event.HasField("result"):
            assert event.result.execution.state == EXECUTION_STATE_SUCCEEDED
    return digest.hexdigest(), first


def _expected() -> str:
    return hashlib.sha256((LINE * (SIZE // len(LINE) + 1))[:SIZE]).hexdigest()


async def _stalled_reader(stubs: Stubs, name: str, address: str) -> Result:
    """One reader stalls for a minute, another does not: the first misses nothing."""
    started = await stubs.executions.StartExecution(StartExecutionRequest(function=name))
    request = WatchExecutionRequest(name=started.execution.name)
    async with Stubs(address) as other:
        slow = aiter(other.executions.WatchExecution(request))
        await anext(slow)
        began = time.perf_counter()
        assert await _digest(aiter(stubs.executions.WatchExecution(request))) == _expected()
        quick = time.perf_counter() - began
        await asyncio.sleep(max(STALL_SECONDS - quick, 0))
        missed = 0 if await _digest(slow) == _expected() else 1
    detail = f"the other reader had all after {quick:.1f} s"
    return Result("readers that missed something", missed, 0, unit="", detail=detail)


async def _digest(answers: AsyncIterator[WatchExecutionResponse]) -> str:
    digest = hashlib.sha256()
    async for answer in answers:
        if answer.event.HasField("output"):
            digest.update(answer.event.output.data)
    return digest.hexdigest()


async def _first_byte(bare: Bare, stubs: Stubs) -> Result:
    """Attach to the same container beside the server, and compare when the byte comes."""
    name = await stubs.deploy("sleep 0.3; echo hello")
    delays = []
    for _ in range(FIRST_BYTES):
        call = stubs.executions.StreamExecution(StreamExecutionRequest(function=name))
        seen_by_bare: asyncio.Task[float] | None = None
        async for answer in call:
            event = answer.event
            if event.state_change.state == EXECUTION_STATE_RUNNING:
                container = f"skybridge-{name}-{event.execution.rpartition('/')[2]}"
                seen_by_bare = asyncio.create_task(asyncio.to_thread(bare.first_byte, container))
            if event.HasField("output"):
                seen_by_caller = time.perf_counter()
        assert seen_by_bare is not None
        delays.append(seen_by_caller - await seen_by_bare)
    return Result(
        "first byte after a bare attach sees it", statistics.median(delays) * 1000, 10, unit="ms"
    )
