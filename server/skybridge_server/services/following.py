"""Follows what all executions of a function write, those that run and those that start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta

from skybridge_server.errors import NotFoundError
from skybridge_server.models.journal import Event, Gap, Output
from skybridge_server.models.names import ExecutionName
from skybridge_server.services.launches import Launches
from skybridge_server.services.requests import Heartbeat, LogEntry, LogQuery
from skybridge_server.services.watching import Watching

QUEUED_ENTRIES = 16
"""Entries that wait for a slow reader; the journals keep the rest."""
FOLLOWED_AT_ONCE = 1000
"""As many as a function may run at once: those launched later wait for a place behind them."""
SILENCE = timedelta(days=1)
"""Heartbeats are of no use here, so they come this seldom."""


class Follower:
    """Merges the journals of many executions into one stream of log entries."""

    def __init__(self, watching: Watching, launches: Launches, query: LogQuery) -> None:
        self._watching = watching
        self._launches = launches
        self._query = query
        self._places = asyncio.Semaphore(FOLLOWED_AT_ONCE)
        self._entries: asyncio.Queue[LogEntry | Exception] = asyncio.Queue(QUEUED_ENTRIES)

    async def entries(self) -> AsyncGenerator[LogEntry]:
        """Yield what every launched execution writes, until nobody reads any more."""
        following = asyncio.create_task(self._follow_all())
        try:
            while True:
                entry = await self._entries.get()
                if isinstance(entry, Exception):
                    raise entry
                yield entry
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow_all(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._places.acquire()
                    name, after = await self._launches.next()
                    group.create_task(self._follow(name, after))
        except* Exception as errors:  # noqa: BLE001 - the reader raises it
            await self._entries.put(errors.exceptions[0])

    async def _follow(self, name: ExecutionName, after: int) -> None:
        try:
            with suppress(NotFoundError):  # it has ended and was deleted
                async for event in self._watching.follow_attempt(
                    name, after=after, heartbeat=SILENCE
                ):
                    entry = entry_of(name, event, self._query)
                    if entry is not None:
                        await self._entries.put(entry)
        finally:
            self._places.release()


def entry_of(name: ExecutionName, event: Event | Heartbeat, query: LogQuery) -> LogEntry | None:
    """Return the entry of an event; None if it is not one that is asked for."""
    if not isinstance(event, Event) or not isinstance(event.body, Output | Gap):
        return None
    if query.stream is not None and event.body.stream is not query.stream:
        return None
    if query.since is not None and event.time < query.since:
        return None
    return LogEntry(name, event.time, event.body)
