"""Executions, their input and their journals in SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TypeVar

from peewee import SqliteDatabase

from skybridge_server.errors import FailedPreconditionError, LeaseLostError, NotFoundError
from skybridge_server.models.aftermath import NOTHING, Aftermath
from skybridge_server.models.executions import Attempt, Execution, ExecutionState
from skybridge_server.models.functions import Function
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.metrics import FunctionMetrics
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.paging import ExecutionQuery, Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.repositories import (
    additions,
    attempt_rows,
    event_rows,
    execution_rows,
    leases,
    statements,
)
from skybridge_server.repositories.additions import Addition
from skybridge_server.repositories.aftermath import store as store_aftermath
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.database import Database, Job
from skybridge_server.repositories.execution_lists import cursor_of, listing
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.retention import discard, find_expired, function_names
from skybridge_server.repositories.summary import summarize
from skybridge_server.repositories.tables import (
    EventRow,
    ExecutionRow,
    InputRow,
)

MAX_EVENTS = 1000

T = TypeVar("T")

NAMED = (ExecutionRow.execution == "") & (ExecutionRow.namespace == "")
UPDATE = statements.update(ExecutionRow, execution_rows.CHANGING, ExecutionRow.id == 0)
WAIT = statements.update(ExecutionRow, execution_rows.WAITING, ExecutionRow.id == 0)
FIND = statements.select((ExecutionRow.id, ExecutionRow.state, ExecutionRow.attempt), NAMED)
FIND_LEASE = statements.select(
    (ExecutionRow.id, ExecutionRow.lease_epoch, ExecutionRow.state), NAMED
)
GET = statements.select(execution_rows.COLUMNS, NAMED)
EVENTS = statements.select(
    event_rows.COLUMNS,
    (EventRow.execution == 0) & (EventRow.sequence > 0),
    order_by=EventRow.sequence,
)


class SqliteExecutions:
    """Executions, their input and their journals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._arriving: dict[str, asyncio.Future[None]] = {}
        """Executions that have ended and are about to be stored, by id."""

    def add(
        self,
        execution: Execution,
        input_: bytes,
        events: Sequence[Event],
        request: Request | None = None,
        *,
        check_function: bool = False,
    ) -> asyncio.Future[None]:
        new = additions.of_new(execution, events, input_, request, check_function=check_function)
        return self._database.write_together(self._add, new, cost=new.size)

    def add_ended(
        self,
        execution: Execution,
        input_: bytes,
        written: Sequence[Output],
        request: Request | None = None,
        *,
        patient: bool = False,
    ) -> asyncio.Future[None]:
        new = additions.of_ended(execution, written, input_, request)
        stored = self._database.write_together(self._add, new, cost=new.size, patient=patient)
        id_ = execution.name.execution
        self._arriving[id_] = stored
        stored.add_done_callback(lambda _: self._arriving.pop(id_))
        return stored

    def _add(self, db: SqliteDatabase, many: Sequence[Addition]) -> None:
        self._database.room.check()
        additions.store(db, many)

    async def append(
        self,
        name: ExecutionName,
        events: Sequence[Event],
        execution: Execution | None = None,
        *,
        epoch: int = 0,
        attempt: Attempt | None = None,
        aftermath: Aftermath = NOTHING,
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            row_id = _find_leased(db, name, epoch)
            _add_events(db, row_id, events)
            if execution is not None:
                db.execute_sql(UPDATE, (*execution_rows.changing_values(execution), row_id))
            if execution is not None and attempt is not None:
                db.execute_sql(WAIT, (*execution_rows.waiting_values(execution), row_id))
                attempt_rows.add(db, row_id, attempt)
            if execution is not None and aftermath is not NOTHING:
                store_aftermath(db, row_id, execution, aftermath)

        # Queued before this coroutine waits for anything: that keeps the order of the calls.
        await self._database.write(job, cost=_size_of(events))

    async def get(self, name: ExecutionName) -> Execution:
        return await self._read(name, lambda db: _get(db, name))

    async def get_input(self, name: ExecutionName) -> bytes:
        def job(db: SqliteDatabase) -> bytes:
            row_id, *_ = _find(db, name)
            query = InputRow.select(InputRow.data).where(InputRow.execution == row_id)
            return bytes(query.scalar(db) or b"")

        return await self._read(name, job)

    async def list(self, query: ExecutionQuery, page: PageRequest) -> Page[Execution]:
        def job(db: SqliteDatabase) -> Page[Execution]:
            rows = [*listing(query, page).tuples().execute(db)]
            found = page_of(rows, page.size, cursor_of)
            return Page(
                tuple(execution_rows.from_values(row[2:]) for row in found.items), found.next
            )

        return await self._database.scan(job)

    async def attempts(self, name: ExecutionName) -> Sequence[Attempt]:
        return await self._read(name, lambda db: attempt_rows.of_execution(db, _find(db, name)[0]))

    async def take_over(
        self, owner: str, *, now: datetime, expire_time: datetime
    ) -> Sequence[Execution]:
        return await self._database.write(lambda db: leases.take_over(db, owner, now, expire_time))

    async def events(self, name: ExecutionName, *, after: int, limit_bytes: int) -> Sequence[Event]:
        return await self._read(name, lambda db: _read_events(db, name, after, limit_bytes))

    async def output(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        def job(db: SqliteDatabase) -> bytes:
            chunks = _read_output(db, name, stream, limit, from_end=False)
            return b"".join(chunks)[:limit]

        return await self._read(name, job)

    async def output_tail(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        def job(db: SqliteDatabase) -> bytes:
            chunks = _read_output(db, name, stream, limit, from_end=True)
            data = b"".join(reversed(chunks))
            return data[max(0, len(data) - limit) :]

        return await self._read(name, job)

    async def delete(self, name: ExecutionName) -> None:
        def job(db: SqliteDatabase) -> None:
            row_id, state, _ = _find(db, name)
            if not ExecutionState(state).final:
                raise FailedPreconditionError(
                    f"execution '{name}' has not ended: cancel it or wait for it, then delete it",
                    reason="EXECUTION_UNFINISHED",
                    metadata={"resource": str(name)},
                )
            discard(db, [(row_id, name.execution)])

        await self._database.write(job)

    async def function_names(self) -> Sequence[FunctionName]:
        return await self._database.scan(function_names)

    async def prune(
        self, function: FunctionName, *, ended_before: datetime, keep: int, limit: int
    ) -> int:
        expired = await self._database.scan(
            lambda db: find_expired(db, function, from_time(ended_before), keep, limit)
        )
        return await self._database.write(lambda db: discard(db, expired))

    async def metrics(
        self, function: Function, *, start_time: datetime, end_time: datetime
    ) -> FunctionMetrics:
        return await self._database.scan(
            lambda db: summarize(db, function, start_time=start_time, end_time=end_time)
        )

    async def _read(self, name: ExecutionName, job: Job[T]) -> T:
        """Read of one execution, once it is stored."""
        if (arriving := self._arriving.get(name.execution)) is not None:
            await asyncio.wait({arriving})
        return await self._database.read(job)


def _find(db: SqliteDatabase, name: ExecutionName) -> tuple[int, int, int]:
    """Return the id of an execution's row, its state and attempt."""
    row = db.execute_sql(FIND, (name.execution, name.namespace)).fetchone()
    if row is None:
        raise NotFoundError("execution", str(name))
    row_id, state, attempt = row
    return row_id, state, attempt


def _find_leased(db: SqliteDatabase, name: ExecutionName, epoch: int) -> int:
    """Return the id of an execution's row, if its lease has this epoch and it has not ended."""
    row = db.execute_sql(FIND_LEASE, (name.execution, name.namespace)).fetchone()
    if row is None:
        raise NotFoundError("execution", str(name))
    row_id, current, state = row
    if current != epoch or ExecutionState(state).final:
        raise LeaseLostError(
            f"execution '{name}' is in other hands: its lease has the epoch {current}, and we have "
            f"{epoch}; it is {ExecutionState(state).name}"
        )
    return int(row_id)


def _get(db: SqliteDatabase, name: ExecutionName) -> Execution:
    row = db.execute_sql(GET, (name.execution, name.namespace)).fetchone()
    if row is None:
        raise NotFoundError("execution", str(name))
    return execution_rows.from_values(row)


def _add_events(db: SqliteDatabase, row_id: int, events: Sequence[Event]) -> None:
    additions.EVENTS.run(db, [(row_id, *event_rows.values_of(event)) for event in events])


def _size_of(events: Sequence[Event]) -> int:
    return sum(len(event.body.data) for event in events if isinstance(event.body, Output))


def _read_events(
    db: SqliteDatabase, name: ExecutionName, after: int, limit_bytes: int
) -> list[Event]:
    events: list[Event] = []
    size = 0
    for event in _journal(db, name, after):
        size += _size_of([event])
        if events and size > limit_bytes:
            break
        events.append(event)
        if len(events) == MAX_EVENTS:
            break
    return events


def _journal(db: SqliteDatabase, name: ExecutionName, after: int) -> Iterator[Event]:
    """Yield the events that follow `after`, those without a row too."""
    row_id, state, _ = _find(db, name)
    for row in db.execute_sql(EVENTS, (row_id, after)):
        event = event_rows.from_values(row, lambda: _get(db, name))
        yield from _straight(db, name, after, event.sequence)
        yield event
        after = event.sequence
    if ExecutionState(state).final:
        yield from _straight(db, name, after, None)


def _straight(
    db: SqliteDatabase, name: ExecutionName, after: int, before: int | None
) -> Iterator[Event]:
    """Yield what has no row because the execution itself tells it, see `add_ended`."""
    if before == after + 1:
        return
    execution = _get(db, name)
    for sequence in range(after + 1, before or execution.last_sequence + 1):
        yield event_rows.of_straight(execution, sequence)


def _read_output(
    db: SqliteDatabase, name: ExecutionName, stream: OutputStream, limit: int, *, from_end: bool
) -> list[bytes]:
    """Return chunks from one end of what the last attempt wrote, `limit` bytes or a bit more."""
    row_id, _, attempt = _find(db, name)
    order = EventRow.sequence.desc() if from_end else EventRow.sequence
    query = EventRow.select(EventRow.data).where(
        EventRow.execution == row_id,
        EventRow.kind == event_rows.Kind.OUTPUT,
        EventRow.stream == stream,
    )
    if attempt > 1:
        before = attempt_rows.of_execution(db, row_id)[-1]
        query = query.where(EventRow.sequence > before.last_sequence)
    chunks: list[bytes] = []
    for (data,) in db.execute_sql(*query.order_by(order).sql()):
        if limit <= 0:
            break
        chunks.append(data)
        limit -= len(data)
    return chunks
