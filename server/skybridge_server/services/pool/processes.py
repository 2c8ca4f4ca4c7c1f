"""Finds instances whose executions leave processes behind, before that fails the next one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from skybridge_server.runtimes.base import SupportsProcesses
from skybridge_server.services.pool.instances import Instance

PAUSE = 1.0
"""Seconds between two looks at an instance: not every engine tells it cheaply."""
LOOKS_IDLE, LOOKS_BUSY = 2, 10
"""Looks in a row that must find too many. What an execution needs for itself ends with it."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Watched:
    runtime: SupportsProcesses
    at_first: int
    """Processes and threads, once it was ready."""
    executions: int = 0
    """It had taken so many when it was looked at last."""
    crowded: int = 0
    """Looks in a row that found too many."""
    next_look: float = 0.0
    """On the clock of the loop."""
    looking: asyncio.Task[None] | None = None


class ProcessWatch:
    """Counts the processes of instances, and retires those that have too many."""

    def __init__(self) -> None:
        self._watched: dict[Instance, _Watched] = {}

    async def begin(self, runtime: object, instance: Instance) -> None:
        """Note how many an instance has that is ready and has done nothing yet."""
        if isinstance(runtime, SupportsProcesses):
            if not instance.processes:
                instance.processes = await runtime.processes(instance.container_id) or 0
            if instance.processes:
                self._watched[instance] = _Watched(runtime, instance.processes)

    def look(self, instance: Instance) -> None:
        """Count in the background, if it is time and executions may have left something."""
        watched, now = self._watched.get(instance), asyncio.get_running_loop().time()
        if watched is None or now < watched.next_look:
            return
        if watched.looking is not None and not watched.looking.done():
            return
        if instance.running or watched.crowded or watched.executions != instance.executions:
            watched.next_look = now + PAUSE
            watched.looking = asyncio.create_task(_look(instance, watched))

    async def end(self, instance: Instance) -> None:
        """Count no more."""
        watched = self._watched.pop(instance, None)
        if watched is not None and watched.looking is not None:
            watched.looking.cancel()
            await asyncio.gather(watched.looking, return_exceptions=True)


async def _look(instance: Instance, watched: _Watched) -> None:
    watched.executions = instance.executions
    count = await watched.runtime.processes(instance.container_id)
    limit = instance.revision.spec.resources.pids
    if count is None or not too_many(count, watched.at_first, limit):
        watched.crowded = 0
        return
    watched.crowded += 1
    if watched.crowded >= (LOOKS_BUSY if instance.running else LOOKS_IDLE):
        log.warning(
            "instance leaks processes",
            instance=str(instance.name),
            processes=count,
            at_first=watched.at_first,
            limit=limit,
        )
        instance.retire()


def too_many(count: int, at_first: int, limit: int) -> bool:
    """Tell whether more than half of what was left to an instance, once it was ready, is taken."""
    return count - at_first > (limit - at_first) / 2
