"""Memory of a server that does nothing, and of a thousand who watch nothing happen."""

from __future__ import annotations

import asyncio

from skybridge.faas.v1.execution_service_pb2 import (
    CancelExecutionRequest,
    StartExecutionRequest,
    WatchExecutionRequest,
)
from tests.benchmarks.harness import Result, Stubs, server

WATCHERS = 1000
CHANNELS = 10
MIB = 1024 * 1024


async def run() -> list[Result]:
    """Measure the resident memory of the server's process."""
    with server() as ours:
        await asyncio.sleep(2)  # lets the first looks at the engine pass
        idle = ours.rss_bytes()
        async with Stubs(ours.address) as stubs:
            name = await stubs.deploy("sleep 50")
            started = await stubs.executions.StartExecution(StartExecutionRequest(function=name))
            execution = started.execution.name
            await _watch_all(ours.address, execution, 1)  # what the first watcher brings along
            before = ours.rss_bytes()
            watched = await _watch_all(ours.address, execution, WATCHERS, ours.rss_bytes)
            await stubs.executions.CancelExecution(CancelExecutionRequest(name=execution))
    each = (watched - before) / WATCHERS / 1024
    return [
        Result("idle server, resident", idle / MIB, 120, unit="MiB"),
        Result("idle watcher, each of 1,000", each, 40, unit="KiB"),
    ]


async def _watch_all(address: str, execution: str, count: int, measure: object = lambda: 0) -> int:
    """Open watchers, wait until each has seen RUNNING, measure, and leave."""
    channels = [Stubs(address) for _ in range(min(CHANNELS, count))]
    try:
        request = WatchExecutionRequest(name=execution)
        calls = [
            channels[i % len(channels)].executions.WatchExecution(request) for i in range(count)
        ]
        for call in calls:
            for _ in range(3):
                await call.read()
        return measure()  # type: ignore[operator,no-any-return]
    finally:
        for channel in channels:
            await channel.channel.close()
