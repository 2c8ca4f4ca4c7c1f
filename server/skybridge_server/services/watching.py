"""Follows journals: each reader has a position of its own, and misses nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import OutOfRangeError
from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Event, Result
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.journal import Journal
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import Heartbeat

READ_BYTES = 1 * MIB


class Watching:
    """Reads the journals of running and ended executions."""

    def __init__(self, executions: ExecutionRepository, registry: Registry) -> None:
        self._executions = executions
        self._registry = registry

    async def watch(
        self, name: ExecutionName, *, after: int, heartbeat: timedelta
    ) -> AsyncGenerator[Event | Heartbeat]:
        """Yield the events that follow `after`, up to the result, and heartbeats in silence.

        NotFoundError. OutOfRangeError when `after` is past the end.
        """
        active = self._registry.get(name)
        if active is None:
            _check_position(after, (await self._executions.get(name)).last_sequence)
            async for event in self._of_store(name, after):
                yield event
            return
        _check_position(after, active.journal.last_sequence)
        with _calling(active):
            async for item in self._of_journal(active.journal, after, heartbeat):
                yield item

    def follow(
        self, name: ExecutionName, *, after: int, heartbeat: timedelta
    ) -> AsyncIterator[Event | Heartbeat]:
        """Yield as `watch` does, without counting as a caller, and from wherever `after` is."""
        active = self._registry.get(name)
        if active is None:
            return self._of_store(name, after)
        return self._of_journal(active.journal, after, heartbeat)

    async def _of_journal(
        self, journal: Journal, after: int, heartbeat: timedelta
    ) -> AsyncIterator[Event | Heartbeat]:
        name, seconds = journal.execution.name, heartbeat.total_seconds()
        while True:
            if not await journal.changed(after, seconds):
                yield Heartbeat(after, datetime.now(UTC))
                continue
            events: Sequence[Event] | None = journal.recent(after)
            if events is None:
                events = await self._executions.events(name, after=after, limit_bytes=READ_BYTES)
            for event in events:
                after = event.sequence
                yield event
                if isinstance(event.body, Result):
                    return

    async def _of_store(self, name: ExecutionName, after: int) -> AsyncIterator[Event]:
        while events := await self._executions.events(name, after=after, limit_bytes=READ_BYTES):
            for event in events:
                yield event
            after = events[-1].sequence


def _calling(active: ActiveExecution) -> AbstractContextManager[None]:
    """Count as a caller where one may go away and come back by watching."""
    return active.caller() if active.disconnect_grace else nullcontext()


def _check_position(after: int, last_sequence: int) -> None:
    if not 0 <= after <= last_sequence:
        raise OutOfRangeError(
            f"after_sequence {after} is not between 0 and {last_sequence}, the journal's end",
            metadata={"last_sequence": str(last_sequence)},
        )
