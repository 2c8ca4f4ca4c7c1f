"""Removes containers of ours that nobody knows any more."""

from __future__ import annotations

import asyncio

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.runtimes.base import ContainerRecord, Containers
from skybridge_server.services import labels
from skybridge_server.services.engines import Engines
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.registry import Registry

INTERVAL = 60.0
"""Seconds between two sweeps; an engine that comes back is swept at once."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Goes over the engines now and then."""

    def __init__(self, registry: Registry, pool: Pool, engines: Engines, server_id: str) -> None:
        self._registry = registry
        self._pool = pool
        self._engines = engines
        self._server_id = server_id
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Sweep now, and on until closed."""
        self._engines.on_change(self._due.set)
        self._task = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> int:
        """Remove our containers whose execution or instance has ended; return how many."""
        ready = [status.name for status in self._engines.status() if status.ready]
        return sum([await self._sweep_engine(name) for name in ready])

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
        containers = self._engines.get(name).containers
        try:
            records = await containers.list(labels.of_server(self._server_id))
        except SkybridgeError as error:
            log.warning("containers not listed", runtime=name, detail=error.message)
            return 0
        unknown = [record for record in records if not self._known(record)]
        return sum([await _remove(containers, record) for record in unknown])

    def _known(self, record: ContainerRecord) -> bool:
        execution = record.labels.get(labels.EXECUTION, "")
        instance = record.labels.get(labels.INSTANCE, "")
        return self._registry.owns(execution) or self._pool.owns(instance)


async def _remove(containers: Containers, record: ContainerRecord) -> bool:
    """Remove a container; one that resists must not protect the others."""
    try:
        await containers.remove(record.id)
    except SkybridgeError as error:
        log.warning("container not removed", container=record.name, detail=error.message)
        return False
    log.info("container removed", container=record.name)
    return True
