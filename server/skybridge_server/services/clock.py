"""The time of day, and waiting for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

LONGEST_WAIT = 10.0
"""Seconds after which the time is looked at again: somebody may have set the clock."""


class Clock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    async def wait(self, event: asyncio.Event, until: datetime | None) -> None:
        """Wait for an event, until the clock says `until`; None: for ever."""
        while until is None or (left := (until - self.now()).total_seconds()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if until is None else min(left, LONGEST_WAIT)):
                    await event.wait()
                    return


SYSTEM_CLOCK = Clock()
