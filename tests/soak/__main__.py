"""Loads a server for long, and tells whether it grows; see scripts/soak."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

from skybridge_client import AsyncClient
from tests.soak.load import Load
from tests.soak.slope import Slope, slope_of
from tests.support.server import Server

SECONDS = 1200
LEAST_SECONDS = 60
SAMPLE_SECONDS = 1.0
PRINT_SAMPLES = 30
WARM_UP_SECONDS = 300
"""In which pools and caches may still grow, under more load; never more than half of the time."""
MOST_MIB = 200
MIB = 1 << 20

Sample = tuple[float, float]
"""Minutes since the beginning, and MiB."""


async def soak(folder: Path, seconds: float) -> bool:
    """Load a server for so long, and print how it was; return whether it kept its size."""
    server = Server(folder)
    server.forked = False  # what it measures shall be nothing but a server
    try:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address) as client:
            load = await Load.deployed(client)
            running = asyncio.create_task(load.run())
            try:
                samples = await _sample(server, load, running, seconds)
            finally:
                load.stop()
                await running
            await client.pause_schedule("soak")
        await asyncio.to_thread(server.stop)
    except BaseException:
        print(server.log_tail())
        raise
    finally:
        server.discard()
    return _judge(samples)


async def _sample(
    server: Server, load: Load, running: asyncio.Task[None], seconds: float
) -> list[Sample]:
    """Look at the server now and then, for as long as the load goes well."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    samples: list[Sample] = []
    while (now := loop.time() - began) < seconds and not running.done():
        load.hurried = now < min(WARM_UP_SECONDS, seconds / 2)
        samples.append((now / 60, server.rss_bytes() / MIB))
        if len(samples) % PRINT_SAMPLES == 1:
            level = server.level()
            print(
                f"{now:6.0f} s  {samples[-1][1]:6.1f} MiB  {level.descriptors:4} descriptors"
                f"  {level.threads:3} threads  {load.calls.total():7} calls",
                flush=True,
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(running), SAMPLE_SECONDS)
    print("calls: " + ", ".join(f"{name} {count}" for name, count in load.calls.items()))
    return samples


def _judge(samples: list[Sample]) -> bool:
    most = max(size for _, size in samples)
    warm_up = min(WARM_UP_SECONDS / 60, samples[-1][0] / 2)
    slope = slope_of([each for each in samples if each[0] >= warm_up])
    print(f"largest {most:.1f} MiB, at most {MOST_MIB}")
    print(f"slope {slope.value:+.3f} MiB a minute, with 95 % {slope.low:+.3f} to {slope.high:+.3f}")
    print(_in_words(slope))
    return most <= MOST_MIB and not slope.grows


def _in_words(slope: Slope) -> str:
    if not slope.distinguishable:
        return "not distinguishable from zero"
    return "it grows" if slope.grows else "it shrinks"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long, at least 60")
    seconds: float = parser.parse_args().seconds
    if seconds < LEAST_SECONDS:
        parser.error(f"--seconds must be at least {LEAST_SECONDS}: a slope needs samples")
    with tempfile.TemporaryDirectory(prefix="skybridge-soak-") as folder:
        return 0 if asyncio.run(soak(Path(folder), seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
