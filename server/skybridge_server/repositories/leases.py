"""Leases of executions that a process which is gone has left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from peewee import SqliteDatabase, fn

from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.journal import OutputStream
from skybridge_server.repositories import attempt_rows, execution_rows
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.event_rows import Kind
from skybridge_server.repositories.tables import HELD, EventRow, ExecutionRow

WAITS = (ExecutionRow.state == ExecutionState.QUEUED) & ~ExecutionRow.interactive


def take_over(
    db: SqliteDatabase, owner: str, now: datetime, expire_time: datetime
) -> Sequence[Execution]:
    """Do what ExecutionRepository.take_over promises.

    One statement puts back what waits, another takes all leases.
    """
    free = (ExecutionRow.lease_owner << ["", owner]) | (
        ExecutionRow.lease_expire_time < from_time(now)
    )
    ExecutionRow.update(
        lease_epoch=ExecutionRow.lease_epoch + 1,
        lease_owner="",
        lease_expire_time=None,
        position=fn.COALESCE(ExecutionRow.position, 0),
    ).where(HELD, WAITS, free).execute(db)
    ExecutionRow.update(
        lease_epoch=ExecutionRow.lease_epoch + 1,
        lease_owner=owner,
        lease_expire_time=fn.MAX(
            fn.COALESCE(ExecutionRow.lease_expire_time, 0), from_time(expire_time)
        ),
    ).where(HELD, ~WAITS, free).execute(db)
    query = ExecutionRow.select(ExecutionRow.id, *execution_rows.COLUMNS)
    mine = query.where(HELD, ExecutionRow.lease_owner == owner)
    rows = mine.order_by(ExecutionRow.create_time, ExecutionRow.id)
    return [
        _as_journalled(db, row_id, execution_rows.from_values(tuple(values)))
        for row_id, *values in rows.tuples().execute(db)
    ]


def _as_journalled(db: SqliteDatabase, row_id: int, execution: Execution) -> Execution:
    """Count what the journal holds: the row says it only as of the last change of state."""
    if execution.state is ExecutionState.QUEUED:
        return execution
    last = EventRow.select(fn.MAX(EventRow.sequence)).where(EventRow.execution == row_id)
    before = attempt_rows.of_execution(db, row_id)
    ends = EventRow.select(EventRow.stream, fn.MAX(EventRow.offset + EventRow.length)).where(
        EventRow.execution == row_id,
        EventRow.kind == Kind.OUTPUT,
        EventRow.sequence > (before[-1].last_sequence if before else 0),
    )
    kept = dict(ends.group_by(EventRow.stream).tuples().execute(db))
    return replace(
        execution,
        last_sequence=last.scalar(db) or 0,
        stdout_bytes=kept.get(OutputStream.STDOUT, 0),
        stderr_bytes=kept.get(OutputStream.STDERR, 0),
    )
