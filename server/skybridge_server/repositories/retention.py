"""Which executions have had their time, and how they are deleted without holding up others.

A journal may be large. So an execution is first put where nobody looks, at once and whole, and then
erased piece by piece: no reader ever sees half a journal, and no transaction takes long.
"""

from __future__ import annotations

from collections.abc import Iterable

from peewee import SqliteDatabase, Tuple, fn

from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.names import FunctionName
from skybridge_server.repositories import statements
from skybridge_server.repositories.tables import (
    DISCARDED,
    DeadLetterRow,
    EventRow,
    ExecutionLabelRow,
    ExecutionRow,
    InputRow,
)

Victim = tuple[int, str]
"""Id of an execution's row, and the execution's id: the first may be used again, both never."""

ERASED_AT_ONCE = 100
"""Executions."""
ERASED_BYTES = 2 * 1024 * 1024
EVENT_COST = 512
"""What erasing an event costs beside its data, in bytes of data."""

NAME = (ExecutionRow.namespace, ExecutionRow.function)
AGE = (ExecutionRow.create_time, ExecutionRow.id)

NEXT_FUNCTION: str = (
    ExecutionRow.select(*NAME).where(Tuple(*NAME) > Tuple("", "")).order_by(*NAME).limit(1).sql()[0]
)
DISCARD = statements.update(
    ExecutionRow, (ExecutionRow.namespace,), (ExecutionRow.id == 0) & (ExecutionRow.execution == "")
)

DELETE_LABELS = statements.delete(ExecutionLabelRow, ExecutionLabelRow.owner == 0)
FIND_DISCARDED: str = (
    ExecutionRow.select(ExecutionRow.id)
    .where(ExecutionRow.namespace == DISCARDED)
    .limit(1)
    .sql()[0]
)
DELETE = statements.delete(ExecutionRow, ExecutionRow.id == 0)
INPUT_SIZE: str = InputRow.select(fn.LENGTH(InputRow.data)).where(InputRow.execution == 0).sql()[0]
EVENT_SIZES: str = (
    EventRow.select(EventRow.sequence, fn.LENGTH(EventRow.data))
    .where(EventRow.execution == 0)
    .order_by(EventRow.sequence)
    .sql()[0]
)
DELETE_EVENTS = statements.delete(EventRow, (EventRow.execution == 0) & (EventRow.sequence <= 0))


UNSETTLED = fn.EXISTS(
    DeadLetterRow.select(1).where(
        DeadLetterRow.execution == ExecutionRow.id, DeadLetterRow.redriven_as.is_null()
    )
)
"""Whether an execution is a dead letter that nobody has dealt with."""


def function_names(db: SqliteDatabase) -> list[FunctionName]:
    """Return the names of all functions that executions are kept of, from one to the next.

    To look at every execution would take long.
    """
    names: list[FunctionName] = []
    last = (DISCARDED, "\U0010ffff")
    while row := db.execute_sql(NEXT_FUNCTION, (*last, 1)).fetchone():
        names.append(FunctionName(*row))
        last = row
    return names


def find_expired(
    db: SqliteDatabase, function: FunctionName, ended_before: int, keep: int, limit: int
) -> list[Victim]:
    """Return executions that have ended and are too old, or too many; the oldest first."""
    mine = (ExecutionRow.namespace == function.namespace) & (
        ExecutionRow.function == function.function
    )
    newest_first = ExecutionRow.select(*AGE).where(mine).order_by(*(key.desc() for key in AGE))
    # The newest of those that are too many.
    excess = newest_first.offset(keep).tuples().first(db) or (-1, -1)
    expired = ExecutionRow.select(ExecutionRow.id, ExecutionRow.execution).where(
        mine,
        ExecutionRow.state >= ExecutionState.SUCCEEDED,
        ExecutionRow.create_time <= max(ended_before, excess[0]),  # as far as one must look
        (ExecutionRow.end_time < ended_before) | (Tuple(*AGE) <= Tuple(*excess)) & ~UNSETTLED,
    )
    return [*expired.order_by(*AGE).limit(limit).tuples().execute(db)]


def discard(db: SqliteDatabase, victims: Iterable[Victim]) -> int:
    """Put executions where nobody finds them; return how many."""
    count = 0
    for row_id, execution in victims:
        db.execute_sql(DELETE_LABELS, (row_id,))
        count += db.execute_sql(DISCARD, (DISCARDED, row_id, execution)).rowcount
    return count


def erase(db: SqliteDatabase) -> bool:
    """Erase some of what was discarded; tell whether there was anything."""
    discarded = [*db.execute_sql(FIND_DISCARDED, (DISCARDED, ERASED_AT_ONCE))]
    budget = ERASED_BYTES
    for (row_id,) in discarded:
        budget -= _erase_events(db, row_id, budget)
        if budget <= 0:
            break
        (input_bytes,) = db.execute_sql(INPUT_SIZE, (row_id,)).fetchone() or (0,)
        db.execute_sql(DELETE, (row_id,))
        budget -= input_bytes
    return bool(discarded)


def _erase_events(db: SqliteDatabase, row_id: int, budget: int) -> int:
    """Erase events from the first on, until the budget is spent; return what that cost."""
    spent = last = 0
    for sequence, size in db.execute_sql(EVENT_SIZES, (row_id,)):
        last = sequence
        spent += EVENT_COST + (size or 0)
        if spent >= budget:
            break
    db.execute_sql(DELETE_EVENTS, (row_id, last))
    return spent
