"""The journal of a running execution: gives numbers, stores in order, wakes readers.

An event can be read once it is on disk, never before: what a reader has seen, a crash cannot take
back. Writers never wait for readers. Each reader has a position of its own and is served from the
last few events in memory, or from the store once it has fallen behind.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import structlog

from skybridge_server.errors import StorageError
from skybridge_server.models.aftermath import NOTHING, Aftermath
from skybridge_server.models.executions import (
    TRANSITIONS,
    Attempt,
    Execution,
    ExecutionState,
    Lease,
)
from skybridge_server.models.functions import KIB, MIB
from skybridge_server.models.journal import (
    Event,
    EventBody,
    Gap,
    GapReason,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.bell import Bell
from skybridge_server.services.retries import attempt_of

UNSTORED_BYTES = 4 * MIB
"""What may wait for the disk; the container is held back beyond."""
BATCH_BYTES = 2 * MIB
"""What goes to the disk in one call, so that hundreds of journals fit in the store's queue."""
RECENT_BYTES = 1 * MIB
SMALL_OUTPUT = 8 * KIB
"""Pieces of output are put together up to this size while they wait for the disk."""
EVENT_COST = 256
"""What an event without data weighs in memory, about."""
LOG_TAIL_BYTES = 8 * KIB
BOTH = frozenset(OutputStream)

log = structlog.get_logger(__name__)


class Journal:
    """The journal of one execution that has not ended, and the execution as it stands.

    Each attempt has a journal of its own here, which goes on where the one before ended.
    """

    def __init__(
        self, execution: Execution, repository: ExecutionRepository, output_limit: int
    ) -> None:
        self._execution = execution
        self._changes: dict[str, Any] = {}
        """What is new of it: put in only when somebody looks, which costs more than most work."""
        self.attempt = execution.attempt
        self._shown = execution
        self._repository = repository
        self._output_limit = output_limit
        self._sequence = execution.last_sequence
        self._stored = execution.last_sequence
        self._unstored: list[Event] = []
        self._unstored_state: Execution | None = None
        self._unstored_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._epoch = execution.lease.epoch
        self._failure: StorageError | None = None
        self._recent: deque[Event] = deque()
        self._recent_bytes = 0
        self._kept = {
            OutputStream.STDOUT: execution.stdout_bytes,
            OutputStream.STDERR: execution.stderr_bytes,
        }
        self._written = dict(self._kept)
        self._bell = Bell()
        self.log_tail = b""

    @property
    def execution(self) -> Execution:
        """The execution as it stands."""
        if self._changes:
            self._execution = replace(self._execution, **self._changes)
            self._changes.clear()
        return self._execution

    @property
    def accepted(self) -> Execution:
        """The execution with what never changes of it, which costs nothing to ask for."""
        return self._execution

    @property
    def name(self) -> ExecutionName:
        return self._execution.name

    @property
    def state(self) -> ExecutionState:
        state: ExecutionState = self._changes.get("state", self._execution.state)
        return state

    # -- writing --------------------------------------------------------------------------------

    def open(self, **begun: Any) -> tuple[Execution, list[Event]]:
        """Return the execution as it is to be stored, and its first events.

        `begun`: what is new of it since its acceptance, where it runs already.
        """
        events = [self._next(StateChange(self.state, self.attempt))]
        if begun:
            self._check_transition(ExecutionState.RUNNING)
            self._changes.update(begun, state=ExecutionState.RUNNING)
            events.append(self._next(StateChange(self.state, self.attempt)))
        self._execution = self._shown = self._snapshot()
        self._epoch = self._execution.lease.epoch
        return self._execution, events

    def stored(self, events: Sequence[Event]) -> None:
        """Publish events that are on disk."""
        for event in events:
            self._recent.append(event)
            self._recent_bytes += _weight(event)
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= _weight(self._recent.popleft())
        self._stored = events[-1].sequence
        self._bell.ring()

    def change_state(self, state: ExecutionState, **changes: object) -> None:
        """Enter a state that is not final."""
        self._check_transition(state)
        self._changes.update(changes, state=state)
        self._write(self._next(StateChange(state, self.attempt)))
        self._unstored_state = self._snapshot()

    def note(self, **changes: object) -> None:
        """Change what is stored of the execution, without an event."""
        self._changes.update(changes)
        self._unstored_state = self._snapshot()
        self._wake_writer()

    async def add_output(self, stream: OutputStream, data: bytes) -> None:
        """Keep what the function wrote, up to its limit; wait only for the disk.

        StorageError once the store has refused something.
        """
        if self.take_output(stream, data):
            await self.room()

    def take_output(self, stream: OutputStream, data: bytes) -> bool:
        """Keep what the function wrote, up to its limit; True: wait for `room` before the next.

        StorageError once the store has refused something.
        """
        if self._failure is not None:
            raise self._failure
        room = self._output_limit - self._written[stream]
        offset = self._written[stream]
        self._written[stream] += len(data)
        if room <= 0:
            return False
        if len(data) > room:
            data = data[:room]
        if stream is OutputStream.STDERR:
            self.log_tail = (self.log_tail + data)[-LOG_TAIL_BYTES:]
        if not self._lengthen_last(stream, data):
            self._write(self._next(Output(stream, offset, data)))
        return self._unstored_bytes > UNSTORED_BYTES

    async def room(self) -> None:
        """Wait until the disk has taken enough."""
        while self._unstored_bytes > UNSTORED_BYTES:
            await self._bell.wait()

    def written(self, stream: OutputStream) -> int:
        """Return how many bytes the function wrote, kept or not."""
        return self._written[stream]

    @property
    def kept(self) -> dict[OutputStream, int]:
        """How much of each stream it has, stored or about to be."""
        return {s: min(written, self._output_limit) for s, written in self._written.items()}

    def output_truncated(self, stream: OutputStream) -> bool:
        """Tell whether some of a stream passed its limit."""
        return self._written[stream] > self._output_limit

    async def flush(self) -> None:
        """Wait until all is on disk. StorageError if something never will be."""
        while self._writing is not None:
            await asyncio.wait({self._writing})
        if self._failure is not None:
            raise self._failure

    async def give_back(self) -> None:
        """Store what there is, and let somebody else go on. StorageError."""
        self.note(lease=Lease(self._epoch))
        await self.flush()

    async def end(
        self,
        execution: Execution,
        *,
        gap_reason: GapReason | None = None,
        gap_in: Collection[OutputStream] = BOTH,
        aftermath: Aftermath = NOTHING,
    ) -> None:
        """Store the end of the execution: gaps, if any, then the result and what follows from it.

        `gap_reason` says that streams broke off, nobody knows how long before their ends.
        StorageError when the store cannot take it; the end can then be tried again.
        """
        await self._finish_writing(execution.state)
        ended, events = self._last_events(execution, gap_reason, gap_in)
        await self._store(events, ended, aftermath=aftermath)
        self._close(ended, events)

    async def end_attempt(
        self,
        ended: Execution,
        waiting: Execution,
        *,
        gap_reason: GapReason | None = None,
        gap_in: Collection[OutputStream] = BOTH,
    ) -> None:
        """Store the end of an attempt as `end` does, but with how the next one is waited for."""
        await self._finish_writing(waiting.state)
        events = self._gap_events(gap_reason, gap_in)
        attempt = attempt_of(self._counted(ended))
        waiting = self._given_back(waiting)
        events.append(self._next(StateChange(waiting.state, waiting.attempt)))
        await self._store(events, waiting, attempt=attempt)
        self._close(waiting, events)

    # -- reading --------------------------------------------------------------------------------

    def snapshot(self) -> Execution:
        """Return the execution as a reader may see it now: as it is on disk."""
        if self.state.final:
            return self.execution
        return replace(
            self._shown,
            last_sequence=self._stored,
            stdout_bytes=self._kept[OutputStream.STDOUT],
            stderr_bytes=self._kept[OutputStream.STDERR],
        )

    async def latest(self) -> Execution:
        """Return the execution as it is now, once that is on disk or was refused."""
        sequence = self._sequence
        while self._stored < sequence and self._failure is None:
            await self._bell.wait()
        return self.snapshot()

    @property
    def started(self) -> bool:
        """Whether the execution no longer waits for a place."""
        return self.state is not ExecutionState.QUEUED

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event that can be read."""
        return self._stored

    def recent(self, after: int) -> list[Event] | None:
        """Return the stored events that follow `after`; None if memory no longer has them all."""
        if after >= self._stored:
            return []
        if not self._recent or self._recent[0].sequence > after + 1:
            return None
        return list(islice(self._recent, after + 1 - self._recent[0].sequence, None))

    async def changed(self, after: int, seconds: float | None) -> bool:
        """Wait until there is an event after `after`; False when none came in time."""
        return self._stored > after or await self._bell.wait(seconds)

    # -- inside ---------------------------------------------------------------------------------

    async def _finish_writing(self, state: ExecutionState) -> None:
        """Wait until all others are stored or given up, before the last events."""
        self._check_transition(state)
        if self._writing is not None:
            with suppress(StorageError):  # what was refused becomes a gap
                await self.flush()

    def _last_events(
        self, execution: Execution, gap_reason: GapReason | None, gap_in: Collection[OutputStream]
    ) -> tuple[Execution, list[Event]]:
        """Return an execution as it ends, and the last events: gaps, the result."""
        events = self._gap_events(gap_reason, gap_in)
        ended = self._given_back(self._counted(execution))
        events.append(self._next(Result(ended)))
        return ended, events

    def _gap_events(
        self, reason: GapReason | None, streams: Collection[OutputStream]
    ) -> list[Event]:
        """Return gaps at the ends of the streams."""
        self._sequence = self._stored
        if reason is None and self._kept == self._written:
            return []
        reasons = dict.fromkeys(streams, reason)
        gaps = (self._gap(stream, kept, reasons.get(stream)) for stream, kept in self._kept.items())
        return [self._next(gap) for gap in gaps if gap is not None]

    def _counted(self, execution: Execution) -> Execution:
        return replace(
            execution,
            last_sequence=self._sequence,
            stdout_bytes=self._written[OutputStream.STDOUT],
            stderr_bytes=self._written[OutputStream.STDERR],
        )

    def _given_back(self, execution: Execution) -> Execution:
        """Return an execution as of the next event, without the lease."""
        return replace(
            execution, last_sequence=self._sequence + 1, lease=Lease(self._epoch), input_given=False
        )

    def _close(self, execution: Execution, events: Sequence[Event]) -> None:
        self._execution = self._shown = execution
        self._changes.clear()
        # Those who are far behind may keep this for long: they find the rest in the store.
        self._recent.clear()
        self._recent_bytes = 0
        self.stored(events)

    def _next(self, body: EventBody) -> Event:
        self._sequence += 1
        return Event(self._sequence, datetime.now(UTC), body)

    def _check_transition(self, state: ExecutionState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.state.name} cannot become {state.name}")

    def _snapshot(self) -> Execution:
        return self._counted(self.execution)

    def _gap(self, stream: OutputStream, kept: int, reason: GapReason | None) -> Gap | None:
        written = self._written[stream]
        if reason is not None:
            return Gap(stream, kept, None, reason)
        if kept == written:
            return None
        over = GapReason.OUTPUT_LIMIT if self._failure is None else GapReason.STORAGE_UNAVAILABLE
        return Gap(stream, kept, written - kept, over)

    def _lengthen_last(self, stream: OutputStream, data: bytes) -> bool:
        """Put output to that of the same stream that still waits for the disk, if it fits."""
        last = self._unstored[-1].body if self._unstored else None
        if not isinstance(last, Output) or last.stream is not stream:
            return False
        if len(last.data) + len(data) > SMALL_OUTPUT:
            return False
        self._unstored[-1] = replace(self._unstored[-1], body=replace(last, data=last.data + data))
        self._unstored_bytes += len(data)
        return True

    def _write(self, event: Event) -> None:
        """Store an event after those before it, without waiting."""
        if self._failure is not None:
            return
        self._unstored.append(event)
        self._unstored_bytes += _weight(event)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writing is None and self._failure is None:
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        """Store what has come, and what comes meanwhile; one call at a time, so without holes."""
        events: list[Event] = []
        try:
            while self._unstored or self._unstored_state:
                events, state = self._batch()
                await self._store(events, state)
                self._shown = state or self._shown
                self._published(events)
        except StorageError as error:
            self._failure = error
        except Exception:
            log.exception("journal broke", execution=str(self.execution.name))
            self._failure = StorageError("internal error of the server")
        finally:
            self._writing = None
            if self._failure is not None:
                self._unstored, self._unstored_bytes, self._unstored_state = [], 0, None
                self._bell.ring()

    def _batch(self) -> tuple[list[Event], Execution | None]:
        """Take what is to be stored next; the execution's state goes with the event of it."""
        size = count = 0
        while count < len(self._unstored) and size < BATCH_BYTES:
            size += _weight(self._unstored[count])
            count += 1
        events, self._unstored = self._unstored[:count], self._unstored[count:]
        state = self._unstored_state
        if state is None or (events and state.last_sequence > events[-1].sequence):
            return events, None
        self._unstored_state = None
        return events, state

    async def _store(
        self,
        events: Sequence[Event],
        state: Execution | None,
        *,
        attempt: Attempt | None = None,
        aftermath: Aftermath = NOTHING,
    ) -> None:
        """Store events; with a state that takes the lease, its epoch is ours from then on."""
        await self._repository.append(
            self._execution.name,
            events,
            state,
            epoch=self._epoch,
            attempt=attempt,
            aftermath=aftermath,
        )
        if state is not None:
            self._epoch = state.lease.epoch

    def _published(self, events: Sequence[Event]) -> None:
        for event in events:
            self._unstored_bytes -= _weight(event)
            if isinstance(event.body, Output):
                self._kept[event.body.stream] += len(event.body.data)
        if events:
            self.stored(events)


def _weight(event: Event) -> int:
    body = event.body
    return EVENT_COST + (len(body.data) if isinstance(body, Output) else 0)
