"""Logs: what executions wrote, of one execution or of all of a function."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from skybridge_server.errors import OutOfRangeError
from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.paging import Cursor, ExecutionQuery, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.following import SILENCE, Follower, entry_of
from skybridge_server.services.launches import Launches
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import LogEntry, LogQuery
from skybridge_server.services.tail import TAIL_BYTES, Tail
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
            entries = self._of_execution(await self._executions.get(target), query)
        else:
            await self._functions.get(target)
            entries = self._of_function(target, query)
        async with aclosing(entries):
            async for entry in entries:
                yield entry

    # -- one execution --------------------------------------------------------------------------

    async def _of_execution(
        self, execution: Execution, query: LogQuery
    ) -> AsyncGenerator[LogEntry]:
        name = execution.name
        after, until = await self._attempt(execution, query.attempt)
        tail = Tail(query.tail_lines)
        async for sequence, entry in self._stored(name, query, after, until):
            after = sequence
            if query.tail_lines:
                tail.add(entry)
            else:
                yield entry
        for last in tail:
            yield last
        if query.follow and until is None:
            follow = self._watching.follow_attempt if query.attempt else self._watching.follow
            async for event in follow(name, after=after, heartbeat=SILENCE):
                coming = entry_of(name, event, query)
                if coming is not None:
                    yield coming

    async def _attempt(self, execution: Execution, number: int) -> tuple[int, int | None]:
        """Return the last sequence before an attempt, 0 for the last one, and that of its end.

        OutOfRangeError: there is no such attempt.
        """
        number = number or execution.attempt
        if number > execution.attempt:
            raise OutOfRangeError(
                f"execution '{execution.name}' has had {execution.attempt} attempts, not {number}",
                metadata={"attempt": str(execution.attempt)},
            )
        if execution.attempt == 1:
            return 0, None
        ends = [each.last_sequence for each in await self._executions.attempts(execution.name)]
        bounds = [0, *ends, None]
        return bounds[number - 1] or 0, bounds[number]

    async def _stored(
        self, name: ExecutionName, query: LogQuery, after: int = 0, until: int | None = None
    ) -> AsyncIterator[tuple[int, LogEntry]]:
        """Yield what is on disk now, each with its sequence, between two sequences."""
        while events := await self._executions.events(name, after=after, limit_bytes=READ_BYTES):
            after = events[-1].sequence
            for event in events:
                if until is not None and event.sequence > until:
                    return
                entry = entry_of(name, event, query)
                if entry is not None:
                    yield event.sequence, entry

    # -- all executions of a function -----------------------------------------------------------

    async def _of_function(
        self, function: FunctionName, query: LogQuery
    ) -> AsyncGenerator[LogEntry]:
        with self._registry.launches(function) as launches:
            async for entry in self._history(function, query, launches):
                yield entry
            if not query.follow:
                return
            follower = Follower(self._watching, launches, query)
            async with aclosing(follower.entries()) as entries:
                async for entry in entries:
                    yield entry

    async def _history(
        self, function: FunctionName, query: LogQuery, launches: Launches
    ) -> AsyncIterator[LogEntry]:
        if query.tail_lines:
            for entry in await self._tail_of_function(function, query, launches):
                yield entry
            return
        async for execution in self._all(function, descending=False):
            if _may_match(execution, query):
                async for sequence, entry in self._stored(execution.name, query):
                    launches.seen(execution.name, sequence)
                    yield entry

    async def _tail_of_function(
        self, function: FunctionName, query: LogQuery, launches: Launches
    ) -> list[LogEntry]:
        """Collect the last lines from the newest execution backwards."""
        entries: deque[LogEntry] = deque()
        lines, room = query.tail_lines, TAIL_BYTES
        async for execution in self._all(function, descending=True):
            if lines <= 0 or room <= 0:
                break
            if _may_match(execution, query):
                tail = Tail(lines, room)
                async for sequence, entry in self._stored(execution.name, query):
                    launches.seen(execution.name, sequence)
                    tail.add(entry)
                entries.extendleft(reversed(list(tail)))
                lines -= tail.lines
                room -= tail.size
        return list(entries)

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
