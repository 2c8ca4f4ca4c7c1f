"""Follows what all executions of a function write, those that run and those that start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

from skybridge_server.models.journal import Event, Gap, Output
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.requests import Heartbeat, LogEntry, LogQuery
from skybridge_server.services.watching import Watching

QUEUED_ENTRIES = 16
"""Entries that wait for a slow reader; the journals keep the rest."""
SILENCE = timedelta(days=1)
"""Heartbeats are of no use here, so they come this seldom."""

Positions = dict[ExecutionName, int]
"""Sequence of the last event that was read of each execution."""


class Follower:
    """Merges the journals of many executions into one stream of log entries."""

    def __init__(
        self, watching: Watching, function: FunctionName, query: LogQuery, positions: Positions
    ) -> None:
        self._watching = watching
        self._function = function
        self._query = query
        self._positions = positions
        self._entries: asyncio.Queue[LogEntry | Exception] = asyncio.Queue(QUEUED_ENTRIES)

    async def entries(self, launches: asyncio.Queue[ActiveExecution]) -> AsyncGenerator[LogEntry]:
        """Yield entries of every execution that `launches` gives, until nobody reads any more."""
        following = asyncio.create_task(self._follow_all(launches))
        try:
            while True:
                entry = await self._entries.get()
                if isinstance(entry, Exception):
                    raise entry
                yield entry
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow_all(self, launches: asyncio.Queue[ActiveExecution]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    active = await launches.get()
                    if active.journal.execution.function == self._function:
                        group.create_task(self._follow(active))
        except* Exception as errors:  # noqa: BLE001 - the reader raises it
            await self._entries.put(errors.exceptions[0])

    async def _follow(self, active: ActiveExecution) -> None:
        seen = self._positions.get(active.name, 0)
        async for event in self._watching.follow(active.journal, seen, SILENCE):
            entry = entry_of(active.name, event, self._query)
            if entry is not None:
                await self._entries.put(entry)


def entry_of(name: ExecutionName, event: Event | Heartbeat, query: LogQuery) -> LogEntry | None:
    """Return the entry of an event; None if it is not one that is asked for."""
    if not isinstance(event, Event) or not isinstance(event.body, Output | Gap):
        return None
    if query.stream is not None and event.body.stream is not query.stream:
        return None
    if query.since is not None and event.time < query.since:
        return None
    return LogEntry(name, event.time, event.body)
