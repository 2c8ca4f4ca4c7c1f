"""Whoever kills, pauses and removes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import docker.errors
from docker.models.containers import Container

from tests.contract.own_engine import OwnEngine
from tests.support.server import Server

PAUSES = (1.0, 4.0)
"""Seconds between two deeds, at least and at most."""


class Monkeys:
    """One deed after the other, by chance, until told to stop; then all is put right again."""

    def __init__(self, server: Server, engine: OwnEngine, seed: int) -> None:
        self.deeds: Counter[str] = Counter()
        self._server = server
        self._engine = engine
        self._random = random.Random(seed)
        self._ways = (
            (6, self._kill_server),
            (2, self._hand_over),
            (2, self._kill_engine),
            (1, self._kill_both),
            (2, self._kill_container),
            (1, self._remove_container),
            (2, self._pause_container),
        )

    async def run(self, seconds: float) -> None:
        """Do harm for so long."""
        weights = [weight for weight, _ in self._ways]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await asyncio.sleep(self._random.uniform(*PAUSES))
                    _, deed = self._random.choices(self._ways, weights)[0]
                    self.deeds[deed.__name__.strip("_")] += 1
                    # To the end: what is half done would stay so.
                    await asyncio.shield(asyncio.create_task(deed()))

    async def _kill_server(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._server.start)

    async def _hand_over(self) -> None:
        self._server.signal(signal.SIGTERM)
        await asyncio.to_thread(self._server.wait)
        await asyncio.to_thread(self._server.start)

    async def _kill_engine(self) -> None:
        await asyncio.to_thread(self._engine.kill)
        await asyncio.sleep(self._random.uniform(0, 2))
        await asyncio.to_thread(self._engine.start)

    async def _kill_both(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._engine.kill)
        await asyncio.to_thread(self._engine.start)
        await asyncio.to_thread(self._server.start)

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
