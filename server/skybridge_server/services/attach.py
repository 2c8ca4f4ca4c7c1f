"""An attached execution: its caller writes stdin and sends signals while output comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import ContainerGoneError, FailedPreconditionError
from skybridge_server.models.journal import Event, Result
from skybridge_server.models.names import ExecutionName
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.engines import Engines
from skybridge_server.services.requests import Heartbeat, InputAck
from skybridge_server.services.watching import Watching

Item = Event | Heartbeat | InputAck

QUEUED_ITEMS = 16
"""Items that wait for a slow caller; the journal keeps the rest."""


class AttachSession:
    """One caller's connection to an attached execution. Close it, whatever happens."""

    def __init__(
        self,
        name: ExecutionName,
        active: ActiveExecution | None,
        engines: Engines,
        watching: Watching,
        *,
        after: int = 0,
    ) -> None:
        self.name = name
        self._active = active
        self._engines = engines
        self._watching = watching
        self._sequence = after
        self._items: asyncio.Queue[Item | Exception] = asyncio.Queue(QUEUED_ITEMS)
        self._calling = contextlib.ExitStack()
        if active is not None:
            self._calling.enter_context(active.caller())

    async def write(self, offset: int, data: bytes, end: bool) -> None:
        """Write to stdin what was not taken before, and close it if `end`.

        Waits while the process does not read. OutOfRangeError for a hole; AbortedError while
        another caller writes. Once the process has ended or closed its stdin, what is written is
        thrown away: the result tells the rest.
        """
        if self._active is None:
            return
        stdin = self._active.stdin
        stdin.claim(self)
        try:
            attachment = await self._active.running()
            await stdin.write(attachment, offset, data, end=end)
        except FailedPreconditionError:  # it ended before its process ran
            stdin.closed = True
        now = datetime.now(UTC)
        await self._items.put(InputAck(stdin.committed, stdin.closed, self._sequence, now))

    async def signal(self, name: str) -> None:
        """Send a signal to the process; nothing happens once it has ended."""
        if self._active is None:
            return
        with contextlib.suppress(FailedPreconditionError, ContainerGoneError):
            await self._active.running()
            runtime = self._engines.get(self._active.revision.spec.runtime)
            await runtime.containers.signal(self._active.container_id, name)

    async def events(self, heartbeat: timedelta) -> AsyncGenerator[Item]:
        """Yield the journal up to the result, heartbeats in silence, and what stdin has taken."""
        pump = asyncio.create_task(self._pump(heartbeat))
        try:
            while True:
                item = await self._items.get()
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, InputAck):
                    # The events that came since it was made have been read before it.
                    yield replace(item, sequence=self._sequence)
                    continue
                self._sequence = item.sequence
                yield item
                if isinstance(item, Event) and isinstance(item.body, Result):
                    return
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self, heartbeat: timedelta) -> None:
        items = self._watching.watch(self.name, after=self._sequence, heartbeat=heartbeat)
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    await self._items.put(item)
        except Exception as error:  # noqa: BLE001 - the reader raises it
            await self._items.put(error)

    async def close(self) -> None:
        """Let others write stdin; the execution lives on for its grace."""
        if self._active is not None:
            self._active.stdin.release(self)
        self._calling.close()
