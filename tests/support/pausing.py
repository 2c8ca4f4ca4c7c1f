"""Freezing containers, as often as it takes."""

from __future__ import annotations

from contextlib import suppress

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.base import SupportsPause
from tests.support.waiting import until


async def pause(runtime: SupportsPause, container_id: str) -> None:
    """Pause a container; a kernel does not always manage to freeze processes that are busy."""

    async def paused() -> bool:
        with suppress(RuntimeUnavailableError):
            await runtime.pause(container_id)
            return True
        return False

    await until(paused, "the container to be paused")
