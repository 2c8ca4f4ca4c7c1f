"""Logs: what executions wrote, of one execution or of all of a function."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.paging import Cursor, ExecutionQuery, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.following import SILENCE, Follower, Positions, entry_of
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import LogEntry, LogQuery
from skybridge_server.services.tail import Tail
from skybridge_server.services.watching import READ_BYTES, Watching

PAGE = 100


class LogService:
    """Reads what executions wrote."""

    def __init__(self, repositories: Repositories, registry: Registry, watching: Watching) -> None:
        self._functions = repositories.functions
        self._executions = repositories.executions
        self._registry = registry
        self._watching = watching

    async def read(
        self, target: ExecutionName | FunctionName, query: LogQuery
    ) -> AsyncGenerator[LogEntry]:
        """Yield what was written, the oldest first. NotFoundError."""
        if isinstance(target, ExecutionName):
            await self._executions.get(target)
            entries = self._of_execution(target, query)
        else:
            await self._functions.get(target)
            entries = self._of_function(target, query)
        async with aclosing(entries):
            async for entry in entries:
                yield entry

    # -- one execution --------------------------------------------------------------------------

    async def _of_execution(self, name: ExecutionName, query: LogQuery) -> AsyncGenerator[LogEntry]:
        positions: Positions = {}
        if query.tail_lines:
            for last in await self._tail(name, query, query.tail_lines, positions):
                yield last
        else:
            async for stored in self._stored(name, query, positions):
                yield stored
        if query.follow:
            async for coming in self._coming(name, query, positions):
                yield coming

    async def _stored(
        self, name: ExecutionName, query: LogQuery, positions: Positions
    ) -> AsyncIterator[LogEntry]:
        """Yield what is on disk now."""
        after = positions.get(name, 0)
        while events := await self._executions.events(name, after=after, limit_bytes=READ_BYTES):
            after = positions[name] = events[-1].sequence
            for event in events:
                entry = entry_of(name, event, query)
                if entry is not None:
                    yield entry

    async def _tail(
        self, name: ExecutionName, query: LogQuery, lines: int, positions: Positions
    ) -> Tail:
        tail = Tail(lines)
        async for entry in self._stored(name, query, positions):
            tail.add(entry)
        return tail

    async def _coming(
        self, name: ExecutionName, query: LogQuery, positions: Positions
    ) -> AsyncIterator[LogEntry]:
        """Yield what is still to come, until the execution ends."""
        active = self._registry.get(name)
        if active is None:
            async for entry in self._stored(name, query, positions):
                yield entry
            return
        events = self._watching.follow(active.journal, positions.get(name, 0), SILENCE)
        async for event in events:
            coming = entry_of(name, event, query)
            if coming is not None:
                yield coming

    # -- all executions of a function -----------------------------------------------------------

    async def _of_function(
        self, function: FunctionName, query: LogQuery
    ) -> AsyncGenerator[LogEntry]:
        positions: Positions = {}
        with self._registry.launches() as launches:
            running = [a for a in self._registry if a.journal.execution.function == function]
            async for entry in self._history(function, query, positions):
                yield entry
            if not query.follow:
                return
            for active in running:
                launches.put_nowait(active)
            follower = Follower(self._watching, function, query, positions)
            async with aclosing(follower.entries(launches)) as entries:
                async for entry in entries:
                    yield entry

    async def _history(
        self, function: FunctionName, query: LogQuery, positions: Positions
    ) -> AsyncIterator[LogEntry]:
        if query.tail_lines:
            for entry in await self._tail_of_function(function, query, positions):
                yield entry
            return
        async for execution in self._all(function, descending=False):
            if _may_match(execution, query):
                async for entry in self._stored(execution.name, query, positions):
                    yield entry

    async def _tail_of_function(
        self, function: FunctionName, query: LogQuery, positions: Positions
    ) -> list[LogEntry]:
        """Collect the last lines from the newest execution backwards."""
        entries: list[LogEntry] = []
        missing = query.tail_lines
        async for execution in self._all(function, descending=True):
            if missing <= 0:
                break
            if _may_match(execution, query):
                tail = await self._tail(execution.name, query, missing, positions)
                entries = [*tail, *entries]
                missing -= tail.lines
        return entries

    async def _all(self, function: FunctionName, *, descending: bool) -> AsyncIterator[Execution]:
        query = ExecutionQuery(
            namespace=function.namespace, function=function.function, descending=descending
        )
        after: Cursor | None = None
        while True:
            page = await self._executions.list(query, PageRequest(PAGE, after))
            for execution in page.items:
                yield execution
            if page.next is None:
                return
            after = page.next


def _may_match(execution: Execution, query: LogQuery) -> bool:
    """Tell whether an execution can have written what is asked for."""
    ended_before = query.since and execution.end_time and execution.end_time < query.since
    return not ended_before
