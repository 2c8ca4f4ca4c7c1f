"""Follows journals: each reader has a position of its own, and misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import OutOfRangeError, UnavailableError
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Event, Result, StateChange
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.journal import Journal
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import Heartbeat

READ_BYTES = 1 * MIB
LOOK_AGAIN = timedelta(seconds=5)
"""How long the end of an execution that waits in the store may go unnoticed."""


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
        else:
            _check_position(after, active.journal.last_sequence)
        with _calling(active) if active else nullcontext():
            async for item in self.follow(name, after=after, heartbeat=heartbeat):
                yield item

    async def follow(
        self, name: ExecutionName, *, after: int, heartbeat: timedelta
    ) -> AsyncGenerator[Event | Heartbeat]:
        """Yield as `watch` does, without counting as a caller, and from wherever `after` is.

        UnavailableError: what comes next waits in the store, and the server stops.
        """
        while True:
            with self._registry.arrival(name) as arrived:
                attempt = self.follow_attempt(name, after=after, heartbeat=heartbeat)
                async with aclosing(attempt) as items:
                    async for item in items:
                        yield item
                        after = item.sequence
                        if isinstance(item, Event) and isinstance(item.body, Result):
                            return
                if (await self._executions.get(name)).state.final:
                    return  # all of it was read before
                while not await self._launched(arrived, heartbeat):
                    yield Heartbeat(after, datetime.now(UTC))

    def follow_attempt(
        self, name: ExecutionName, *, after: int, heartbeat: timedelta
    ) -> AsyncGenerator[Event | Heartbeat]:
        """Yield as `follow` does, but no more than what is known until the next attempt begins."""
        active = self._registry.get(name)
        if active is None:
            return self._of_store(name, after)
        return self._of_journal(active.journal, after, heartbeat)

    async def end(self, name: ExecutionName) -> Execution:
        """Wait until an execution has ended for good, and return it.

        NotFoundError. UnavailableError: it waits in the store, and the server stops.
        """
        while True:
            with self._registry.arrival(name) as arrived:
                active = self._registry.get(name)
                execution = await (active.end() if active else self._executions.get(name))
                if execution.state.final:
                    return execution
                # It may be lost before it comes to memory: nobody tells of that.
                await self._launched(arrived, LOOK_AGAIN)

    async def _launched(self, arrived: asyncio.Event, length: timedelta) -> bool:
        """Wait until an execution is launched; False when it was not in time.

        UnavailableError: the server stops, and leaves it to the next start.
        """
        launched = await _set_within(arrived, length)
        if self._registry.hanging_up:
            raise UnavailableError(
                "the server stops, and the execution goes on when it is back: ask again then",
                reason="SERVER_STOPPING",
            )
        return launched

    async def _of_journal(
        self, journal: Journal, after: int, heartbeat: timedelta
    ) -> AsyncGenerator[Event | Heartbeat]:
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
                if _ends_attempt(event, journal.attempt):
                    return

    async def _of_store(self, name: ExecutionName, after: int) -> AsyncGenerator[Event]:
        while events := await self._executions.events(name, after=after, limit_bytes=READ_BYTES):
            for event in events:
                yield event
            after = events[-1].sequence


def _ends_attempt(event: Event, attempt: int) -> bool:
    """Tell whether nothing of an attempt comes after an event."""
    match event.body:
        case Result():
            return True
        case StateChange(_, following):
            return following > attempt
    return False


async def _set_within(event: asyncio.Event, length: timedelta) -> bool:
    """Wait for an event; False when it was not set in time."""
    try:
        async with asyncio.timeout(length.total_seconds()):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _calling(active: ActiveExecution) -> AbstractContextManager[None]:
    """Count as a caller where one may go away and come back by watching."""
    return active.caller() if active.disconnect_grace else nullcontext()


def _check_position(after: int, last_sequence: int) -> None:
    if not 0 <= after <= last_sequence:
        raise OutOfRangeError(
            f"after_sequence {after} is not between 0 and {last_sequence}, the journal's end",
            metadata={"last_sequence": str(last_sequence)},
        )
