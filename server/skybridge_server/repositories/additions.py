"""New executions, as many as there are in one go.

Thousands of them come each second, and each statement costs the interpreter's lock twice. So those
that share a commit share the statements too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from peewee import SqliteDatabase, fn

from skybridge_server.errors import FailedPreconditionError, NotFoundError
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import FunctionState
from skybridge_server.models.journal import Event, Output
from skybridge_server.models.names import RevisionName
from skybridge_server.models.requests import Request
from skybridge_server.models.values import value
from skybridge_server.repositories import event_rows, execution_rows, forms, statements
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.functions import check_revision
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.statements import Insert
from skybridge_server.repositories.tables import (
    EventRow,
    ExecutionLabelRow,
    ExecutionRow,
    FunctionRow,
    InputRow,
)

LAST_ID = ExecutionRow.select(fn.MAX(ExecutionRow.id)).sql()[0]
FUNCTION = statements.select(
    (FunctionRow.uid, FunctionRow.state, FunctionRow.active_revision, FunctionRow.id),
    (FunctionRow.namespace == "") & (FunctionRow.function == ""),
)
EVENTS = Insert(EventRow, (EventRow.execution, *event_rows.COLUMNS))
INPUTS = Insert(InputRow, (InputRow.execution, InputRow.data))
LABELS = Insert(
    ExecutionLabelRow,
    (
        ExecutionLabelRow.owner,
        ExecutionLabelRow.key,
        ExecutionLabelRow.value,
        ExecutionLabelRow.namespace,
        ExecutionLabelRow.create_time,
    ),
)


@value(frozen=True, slots=True)
class Addition:
    """A new execution, as the values of its rows: making them is no work for the writing thread."""

    execution: Execution
    insert: Insert
    values: tuple[Any, ...]
    """What `insert` takes after the id of the row."""
    events: Sequence[tuple[Any, ...]]
    input: bytes = b""
    request: Request | None = None
    check_function: bool = False
    size: int = 0
    """Bytes of data."""


def of_new(
    execution: Execution,
    events: Sequence[Event],
    input_: bytes = b"",
    request: Request | None = None,
    *,
    check_function: bool,
) -> Addition:
    """Return what is to be stored of an execution with the first events of its journal."""
    rows = [event_rows.values_of(event) for event in events]
    insert, values = forms.fitting(forms.QUEUED, execution_rows.values_of(execution))
    size = len(input_) + sum(map(event_rows.size_of, rows))
    return Addition(execution, insert, values, rows, input_, request, check_function, size)


def of_ended(
    execution: Execution, written: Sequence[Output], input_: bytes, request: Request | None
) -> Addition:
    """Return what is to be stored of an execution that ran straight to its end."""
    time = from_time(execution.end_time or execution.create_time)
    rows = [
        event_rows.values_of_output(sequence, time, body)
        for sequence, body in enumerate(written, event_rows.FIRST_OUTPUT)
    ]
    size = len(input_) + execution.stdout_bytes + execution.stderr_bytes
    insert, values = forms.fitting(forms.SUCCEEDED, execution_rows.values_of(execution))
    return Addition(execution, insert, values, rows, input_, request, size=size)


def store(db: SqliteDatabase, many: Sequence[Addition]) -> int:
    """Store executions as part of a change; return the id of the first row.

    NotFoundError, FailedPreconditionError: a function cannot be executed, where that is checked.
    """
    for each in many:
        record(db, each.request)
    _check_functions(db, [each.execution for each in many if each.check_function])
    if len(many) == 1:
        first = many[0].insert.one(db, (None, *many[0].values))
    else:
        (last,) = db.execute_sql(LAST_ID).fetchone()
        first = (last or 0) + 1
    numbered = [*enumerate(many, first)]
    if len(many) > 1:
        for insert in {each.insert for each in many}:
            insert.run(db, [(i, *each.values) for i, each in numbered if each.insert is insert])
    EVENTS.run(db, [(row_id, *event) for row_id, each in numbered for event in each.events])
    INPUTS.run(db, [(row_id, each.input) for row_id, each in numbered if each.input])
    LABELS.run(db, [*chain(*(_labels(i, e.execution) for i, e in numbered if e.execution.labels))])
    return first


def _labels(row_id: int, execution: Execution) -> Iterator[tuple[Any, ...]]:
    namespace, create_time = execution.name.namespace, from_time(execution.create_time)
    for label in execution.labels.items():
        yield (row_id, *label, namespace, create_time)


def _check_functions(db: SqliteDatabase, executions: Sequence[Execution]) -> None:
    for each in {(e.function, e.function_uid, e.revision): e for e in executions}.values():
        _check_function(db, each)


def _check_function(db: SqliteDatabase, execution: Execution) -> None:
    name = execution.function
    row = db.execute_sql(FUNCTION, (name.namespace, name.function)).fetchone()
    if row is None or row[0] != execution.function_uid:
        raise NotFoundError("function", str(name))
    if row[1] == FunctionState.DISABLED:
        raise FailedPreconditionError(
            f"function '{name}' is disabled: enable it with EnableFunction",
            reason="FUNCTION_DISABLED",
        )
    if row[2] != execution.revision:
        check_revision(db, row[3], RevisionName(name, execution.revision))
