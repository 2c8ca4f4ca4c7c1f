"""Does now and then what keeps the store and the engines tidy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from skybridge_server.errors import SkybridgeError

INTERVAL = timedelta(minutes=1)

Chore = Callable[[], Awaitable[object]]

log = structlog.get_logger(__name__)


class Housekeeping:
    """Does its chores in turn, at the start and then every minute."""

    def __init__(self, chores: Mapping[str, Chore]) -> None:
        """Take chores by what they do, for the log."""
        self._chores = chores
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start to tidy."""
        self._task = asyncio.create_task(self._tidy_for_ever())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _tidy_for_ever(self) -> None:
        while True:
            for name, chore in self._chores.items():
                await _do(name, chore)
            await asyncio.sleep(INTERVAL.total_seconds())


async def _do(name: str, chore: Chore) -> None:
    """Do a chore; one that fails must not stop the others."""
    try:
        await chore()
    except SkybridgeError as error:
        log.warning("chore not done", chore=name, detail=error.message)
    except Exception:
        log.exception("chore broke", chore=name)
