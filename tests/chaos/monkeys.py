"""Whoever kills, pauses, removes and fills."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import docker.errors
from docker.models.containers import Container

from tests.chaos.crashing import POINTS
from tests.contract.own_engine import OwnEngine
from tests.support.disk import Disk
from tests.support.server import Server
from tests.support.waiting import PAUSE

PAUSES = (1.0, 4.0)
"""Seconds between two deeds, at least and at most."""
CRASHES = 6
"""Points at which the server dies one after the other, before it may run in peace."""
CRASH_PATIENCE = 10.0
"""Seconds for the server to come to a point; else that is tried again later."""
MORE_TIME = 60.0
"""Seconds at most for the points that are left at the end."""
MIB = 1 << 20
ROOM_LEFT = (0, 0, 16 * MIB)
"""What is left of the disk: nothing, or what is kept for executions that run."""

Deed = Callable[[], Awaitable[None]]


class Monkeys:
    """One deed after the other, by chance, until told to stop; then all is put right again."""

    def __init__(self, server: Server, engine: OwnEngine, disk: Disk, seed: int) -> None:
        self.deeds: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()
        """How often the server died at each point of tests/chaos/crashing.py."""
        self._server = server
        self._engine = engine
        self._disk = disk
        self._random = random.Random(seed)
        self._points: list[str] = []
        self._in_between = True
        self._ways: tuple[tuple[int, Deed], ...] = (
            (4, self._kill_server),
            (4, self._crash_server),
            (2, self._hand_over),
            (2, self._kill_engine),
            (1, self._kill_both),
            (2, self._kill_container),
            (2, self._remove_container),
            (2, self._pause_container),
            (2, self._fill_disk),
            (1, self._kill_on_full_disk),
        )

    @property
    def not_crashed_at(self) -> list[str]:
        """The points that the server did not come to."""
        return [point for point in POINTS if not self.crashes[point]]

    async def run(self, seconds: float) -> None:
        """Do harm for so long, and a little longer if the server has not died at each point yet.

        The last deed is done to its end: half of it would stay.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self._random.uniform(*PAUSES))
            deed = self._next_deed()
            self.deeds[deed.__name__.strip("_")] += 1
            await deed()
        end += min(MORE_TIME, seconds / 2)
        while self.not_crashed_at and loop.time() < end:
            await self._crash_server()

    def _next_deed(self) -> Deed:
        """Choose one by chance; in between the server dies until it has died at each point."""
        self._in_between = not self._in_between
        if self._in_between and self.not_crashed_at:
            return self._crash_server
        weights = [weight for weight, _ in self._ways]
        return self._random.choices(self._ways, weights)[0][1]

    # -- the server -----------------------------------------------------------------------------

    async def _kill_server(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._server.start)

    async def _crash_server(self) -> None:
        """Let it die at some points, one after the other; none comes twice before all did once."""
        await asyncio.to_thread(self._server.kill)
        for _ in range(CRASHES):
            self._points = self._points or self._random.sample([*POINTS], len(POINTS))
            point = self._points.pop()
            if await self._crashes_at(point):
                self.crashes[point] += 1
            else:
                self._points.insert(0, point)
        await asyncio.to_thread(self._server.start)

    async def _crashes_at(self, point: str) -> bool:
        self._server.prepare = POINTS[point].arm
        try:
            self._server.launch()
        finally:
            self._server.prepare = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CRASH_PATIENCE):
                while self._server.runs:  # noqa: ASYNC110 - nothing else tells of its end
                    await asyncio.sleep(PAUSE)
        crashed = self._server.process.returncode == -signal.SIGKILL
        await asyncio.to_thread(self._server.kill)
        return crashed

    async def _hand_over(self) -> None:
        self._server.signal(signal.SIGTERM)
        await asyncio.to_thread(self._server.wait)
        await asyncio.to_thread(self._server.start)

    # -- the engine -----------------------------------------------------------------------------

    async def _kill_engine(self) -> None:
        await asyncio.to_thread(self._engine.kill)
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._engine.start)

    async def _kill_both(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._engine.kill)
        await asyncio.to_thread(self._engine.start)
        await asyncio.to_thread(self._server.start)

    # -- containers -----------------------------------------------------------------------------

    async def _kill_container(self) -> None:
        await self._meddle(lambda container: container.kill())

    async def _remove_container(self) -> None:
        await self._meddle(lambda container: container.remove(force=True))

    async def _pause_container(self) -> None:
        def pause(container: Container) -> None:
            container.pause()
            time.sleep(self._random.uniform(0, 1))
            container.unpause()

        await self._meddle(pause)

    async def _meddle(self, deed: Callable[[Container], object]) -> None:
        def do() -> None:
            running = [each for each in self._server.containers() if each.status == "running"]
            if running:
                deed(self._random.choice(running))

        with contextlib.suppress(docker.errors.APIError):  # it has ended meanwhile
            await asyncio.to_thread(do)

    # -- the disk -------------------------------------------------------------------------------

    async def _fill_disk(self) -> None:
        self._disk.fill(leaving=self._random.choice(ROOM_LEFT))
        await asyncio.sleep(self._random.uniform(0.5, 3))
        self._disk.free()

    async def _kill_on_full_disk(self) -> None:
        self._disk.fill(leaving=0)
        await asyncio.sleep(self._random.uniform(0, 1))
        await asyncio.to_thread(self._server.kill)
        self._disk.free()
        await asyncio.to_thread(self._server.start)
