"""Lets executions wait for a place whose time has come: that of their start, or next attempt."""

from __future__ import annotations

from datetime import datetime, timedelta

from skybridge_server.repositories.base import WaitingRepository
from skybridge_server.services.backlog import BATCH, Backlog
from skybridge_server.services.clock import Clock
from skybridge_server.services.slots import Slots

FULL = timedelta(seconds=1)
"""How much longer they wait while the server's queue is full."""


class Delays:
    """The executions of one server that wait for their time."""

    def __init__(
        self, waiting: WaitingRepository, backlog: Backlog, slots: Slots, clock: Clock
    ) -> None:
        self._waiting = waiting
        self._backlog = backlog
        self._slots = slots
        self._clock = clock

    async def run_due(self) -> datetime | None:
        """Let go on what is due, as far as the queue has room; return when to do so again.

        StorageError.
        """
        while room := min(self._slots.room, BATCH):
            if not await self._backlog.queue_due(self._clock.now(), room):
                return await self._waiting.next_time()
            await self._backlog.idle()  # some of them may run by now, and make room
        return self._clock.now() + FULL
