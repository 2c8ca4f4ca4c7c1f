"""Executions that are stored whole once they have ended, as many as there are in one go.

Thousands of them end each second, and each statement costs the interpreter's lock twice. So those
that share a commit share the statements too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from peewee import SqliteDatabase, fn

from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import Output
from skybridge_server.models.requests import Request
from skybridge_server.repositories import event_rows, execution_rows
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.statements import Insert
from skybridge_server.repositories.tables import (
    EventRow,
    ExecutionLabelRow,
    ExecutionRow,
    InputRow,
)

_LAST_ID = ExecutionRow.select(fn.MAX(ExecutionRow.id)).sql()[0]
_EXECUTIONS = Insert(ExecutionRow, (ExecutionRow.id, *execution_rows.COLUMNS))
_EVENTS = Insert(EventRow, (EventRow.execution, *event_rows.COLUMNS))
_INPUTS = Insert(InputRow, (InputRow.execution, InputRow.data))
LABEL_COLUMNS = (
    ExecutionLabelRow.owner,
    ExecutionLabelRow.key,
    ExecutionLabelRow.value,
    ExecutionLabelRow.namespace,
    ExecutionLabelRow.create_time,
)
_LABELS = Insert(ExecutionLabelRow, LABEL_COLUMNS)


@dataclass(frozen=True, slots=True)
class Ended:
    """An execution that ran straight to its end, as the values of its rows."""

    execution: Execution
    values: tuple[Any, ...]
    events: Sequence[tuple[Any, ...]]
    input: bytes
    request: Request | None


def ended(
    execution: Execution, input_: bytes, written: Sequence[Output], request: Request | None
) -> Ended:
    """Return what is to be stored: making it is no work for the thread that writes."""
    time = from_time(execution.end_time or execution.create_time)
    events = [
        event_rows.values_at(sequence, time, body)
        for sequence, body in enumerate(written, event_rows.FIRST_OUTPUT)
    ]
    return Ended(execution, execution_rows.values_of(execution), events, input_, request)


def store(db: SqliteDatabase, many: Sequence[Ended]) -> None:
    """Store executions as part of a change."""
    for each in many:
        record(db, each.request)
    (last,) = db.execute_sql(_LAST_ID).fetchone()
    numbered = [*enumerate(many, (last or 0) + 1)]
    _EXECUTIONS.run(db, [(row_id, *each.values) for row_id, each in numbered])
    _EVENTS.run(db, [(row_id, *event) for row_id, each in numbered for event in each.events])
    _INPUTS.run(db, [(row_id, each.input) for row_id, each in numbered if each.input])
    _LABELS.run(db, [*chain(*(_labels(row_id, each.execution) for row_id, each in numbered))])


def _labels(row_id: int, execution: Execution) -> Iterator[tuple[Any, ...]]:
    for label in execution.labels.items():
        yield (row_id, *label, execution.name.namespace, from_time(execution.create_time))
