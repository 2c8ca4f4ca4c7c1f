"""Lets executions go on whose time has come: that of their start, or of their next attempt.

Until then they are rows in the store and nothing in memory, however many there are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta

from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.base import WaitingRepository
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.clock import Clock
from skybridge_server.services.recovery import Recovery
from skybridge_server.services.registry import Registry
from skybridge_server.services.slots import Slots

BATCH = 100
"""Executions that are let go on in one step."""
FULL = timedelta(seconds=1)
"""How much longer they wait while the server's queue is full."""


class Delays:
    """The executions of one server that wait for their time."""

    def __init__(
        self,
        waiting: WaitingRepository,
        recovery: Recovery,
        registry: Registry,
        slots: Slots,
        clock: Clock,
    ) -> None:
        self._waiting = waiting
        self._recovery = recovery
        self._registry = registry
        self._slots = slots
        self._clock = clock
        self._claimed: deque[Execution] = deque()
        self._claiming = asyncio.Lock()
        self._admitting: set[asyncio.Task[None]] = set()

    async def run_due(self) -> datetime | None:
        """Let go on what is due, as far as the queue has room; return when to do so again.

        StorageError.
        """
        while room := min(self._slots.room, BATCH):
            async with self._claiming:
                self._claimed.extend(await self._waiting.claim_due(self._clock.now(), room))
                if not self._claimed:
                    return await self._waiting.next_time()
                await self._let_go_on()
        return self._clock.now() + FULL

    async def admit(self, name: ExecutionName) -> ActiveExecution | None:
        """Let an execution go on before its time; None if it does not wait."""
        # To the end, whatever becomes of the caller: what is claimed waits for us alone.
        admitting = asyncio.create_task(self._admit(name))
        self._admitting.add(admitting)
        admitting.add_done_callback(self._admitting.discard)
        await asyncio.shield(admitting)
        return self._registry.get(name)

    async def of_function(self, function_uid: str) -> Sequence[ExecutionName]:
        """Return executions of a function that wait; some, if there are many."""
        return await self._waiting.of_function(function_uid, BATCH)

    async def _admit(self, name: ExecutionName) -> None:
        async with self._claiming:
            claimed = await self._waiting.claim(name)
            if claimed is not None:
                self._claimed.append(claimed)
                await self._let_go_on()

    async def _let_go_on(self) -> None:
        """Launch what is claimed; what the store fails to tell now is launched the next time."""
        while self._claimed:
            await self._recovery.let_go_on(self._claimed[0])
            self._claimed.popleft()
