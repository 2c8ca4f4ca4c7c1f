"""What a deployment under way tells; it does not care who listens, or whether anybody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from skybridge_server.models.functions import Revision
from skybridge_server.runtimes.base import PullProgress
from skybridge_server.services.requests import DeploymentPhase

Step = DeploymentPhase | PullProgress | Revision

QUEUED_STEPS = 256
"""Steps that wait for a slow listener; layers' progress beyond is left out."""


class Progress:
    """Tells every listener the steps from the phase at which it comes."""

    def __init__(self) -> None:
        self._phase: DeploymentPhase | None = None
        self._listeners: set[asyncio.Queue[Step | None]] = set()
        self._over = False

    def tell(self, step: Step) -> None:
        if isinstance(step, DeploymentPhase):
            self._phase = step
        for queue in self._listeners:
            if not isinstance(step, PullProgress) or queue.qsize() < QUEUED_STEPS:
                queue.put_nowait(step)

    def end(self) -> None:
        """Tell that nothing more comes."""
        self._over = True
        for queue in self._listeners:
            queue.put_nowait(None)

    async def steps(self) -> AsyncGenerator[Step]:
        """Yield the steps until the end."""
        if self._over:
            return
        queue: asyncio.Queue[Step | None] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            if self._phase is not None:
                yield self._phase
            while (step := await queue.get()) is not None:
                yield step
        finally:
            self._listeners.discard(queue)
