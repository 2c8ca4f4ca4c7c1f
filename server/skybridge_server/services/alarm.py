"""An alarm: has something done when the time for it comes, and whenever it is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from skybridge_server.errors import StorageError
from skybridge_server.services.clock import Clock

FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(seconds=30)

log = structlog.get_logger(__name__)

RunDue = Callable[[], Awaitable[datetime | None]]
"""Does all that is due, and returns when to do so again; None: when woken."""


class Alarm:
    """One timer, over the earliest of whatever the store knows to come."""

    def __init__(self, what: str, clock: Clock) -> None:
        """`what` it is for, for the log."""
        self._what = what
        self._clock = clock
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Have it done again: something may be due by now, or earlier than before."""
        self._woken.set()

    async def open(self, run_due: RunDue) -> None:
        """Have it done now, and on until closed."""
        self._task = asyncio.create_task(self._run_for_ever(run_due))

    async def close(self) -> None:
        """Stop, also in the middle of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run_for_ever(self, run_due: RunDue) -> None:
        while True:
            self._woken.clear()
            try:
                until = await run_due()
            except StorageError as error:
                log.warning("alarm waits for the store", of=self._what, detail=error.message)
                until = self._clock.now() + FIRST_RETRY
            except Exception:
                log.exception("alarm broke", of=self._what)
                until = self._clock.now() + LAST_RETRY
            await self._clock.wait(self._woken, until)
