"""Removes containers of ours that nobody knows any more, and notices those that ended unseen."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Protocol

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.runtimes.base import (
    ContainerEnd,
    ContainerRecord,
    Containers,
    Runtime,
    SupportsEvents,
    SupportsFiles,
)
from skybridge_server.services import labels
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.engines import Engines
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.registry import Registry

INTERVAL = 60.0
"""Seconds between two sweeps; what an engine tells, and its return, have it swept at once."""
LISTEN_PAUSE = 1.0
"""Seconds until an engine is listened to again after it fell silent."""
STOP_PATIENCE = 5.0
"""Seconds that a stop of the server waits for the last sweep."""

log = structlog.get_logger(__name__)


class Adopting(Protocol):
    """Takes over what an earlier process left."""

    async def run(self, engine: str) -> None:
        """Return once all that is taken over from an engine is known."""
        ...


class Sweeper:
    """Goes over the engines now and then, and listens to them."""

    def __init__(
        self,
        registry: Registry,
        pool: Pool,
        ahead: Ahead,
        adopting: Adopting,
        engines: Engines,
        server_id: str,
    ) -> None:
        self._registry = registry
        self._pool = pool
        self._ahead = ahead
        self._adopting = adopting
        self._engines = engines
        self._server_id = server_id
        self._adopted: set[str] = set()
        """The engines of which all that is taken over is known."""
        self._due = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._listening: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Sweep now, and on until closed."""
        self._engines.on_change(self._due.set)
        names = [status.name for status in self._engines.status()]
        self._sweeping = asyncio.create_task(self._sweep_for_ever())
        self._listening = [asyncio.create_task(self._listen_for_ever(name)) for name in names]

    async def close(self) -> None:
        """Stop sweeping, with a last sweep: what is left now may stay for ever."""
        if self._sweeping is not None:
            await _end(self._sweeping)
        await self._sweep_at_last()
        # A connection that is cut has the engine asked anew who it is: so these end last.
        await _end(*self._listening)

    async def _sweep_at_last(self) -> None:
        """Sweep, but not at engines that hang: nobody could take back what they were asked."""
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                for name in self._adopted:
                    if await self._engines.answers(name):
                        await self._remove_unknown(name)
        except TimeoutError:
            log.warning("containers are left to the next start")
        except Exception:
            log.exception("sweep broke")

    async def sweep(self) -> int:
        """Remove our containers that nobody needs any more; return how many."""
        return sum([await self._sweep_engine(name) for name in self._ready()])

    def _ready(self) -> list[str]:
        return [status.name for status in self._engines.status() if status.ready]

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("sweep broke")
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def _sweep_engine(self, name: str) -> int:
        await self._adopting.run(name)
        self._adopted.add(name)
        return await self._remove_unknown(name)

    async def _remove_unknown(self, name: str) -> int:
        containers = self._engines.get(name).containers
        try:
            records = await containers.list(labels.of_server(self._server_id))
        except SkybridgeError as error:
            log.warning("containers not listed", runtime=name, detail=error.message)
            return 0
        unknown = [record for record in records if not self._known(record)]
        removed = sum([await _remove(containers, record) for record in unknown])
        await self._forget_files(self._engines.get(name))
        return removed

    async def _forget_files(self, runtime: Runtime) -> None:
        if isinstance(runtime, SupportsFiles):
            try:
                await runtime.forget_files(labels.of_server(self._server_id))
            except SkybridgeError as error:
                log.warning("files not looked for", runtime=runtime.name, detail=error.message)

    def _known(self, container: ContainerRecord | ContainerEnd) -> bool:
        instance = container.labels.get(labels.INSTANCE, "")
        ahead = container.labels.get(labels.AHEAD, "")
        return (
            self._registry.owns(container) or self._pool.owns(instance) or self._ahead.owns(ahead)
        )

    # -- listening ------------------------------------------------------------------------------

    async def _listen_for_ever(self, name: str) -> None:
        runtime = self._engines.get(name)
        if not isinstance(runtime, SupportsEvents):
            return
        while True:
            await self._engines.until_ready(name)
            try:
                await self._listen(runtime)
            except SkybridgeError as error:
                log.info("engine is not heard", runtime=name, detail=error.message)
            except Exception:
                log.exception("listening broke", runtime=name)
            await asyncio.sleep(LISTEN_PAUSE)

    async def _listen(self, runtime: SupportsEvents) -> None:
        async with aclosing(
            await runtime.container_ends(labels.of_server(self._server_id))
        ) as ends:
            self._due.set()  # what happened until now was told to nobody
            async for end in ends:
                self._hear(end)

    def _hear(self, end: ContainerEnd) -> None:
        self._registry.container_ended(end)
        if end.removed:
            self._ahead.container_gone(end.id)
        elif not self._known(end):
            self._due.set()


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _remove(containers: Containers, record: ContainerRecord) -> bool:
    """Remove a container; one that resists must not protect the others."""
    try:
        await containers.remove(record.id)
    except SkybridgeError as error:
        log.warning("container not removed", container=record.name, detail=error.message)
        return False
    log.info("container removed", container=record.name)
    return True
