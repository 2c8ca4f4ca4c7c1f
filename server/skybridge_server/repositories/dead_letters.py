"""Dead letters in SQLite: executions, found by a table that has only these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from peewee import ModelSelect, SqliteDatabase, Tuple

from skybridge_server.errors import NotFoundError
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import Event
from skybridge_server.models.names import ExecutionName
from skybridge_server.models.paging import DeadLetterQuery, Page, PageRequest
from skybridge_server.repositories import additions, execution_rows, statements
from skybridge_server.repositories.codec import from_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.labels import has_label
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.retention import discard
from skybridge_server.repositories.statements import ANY
from skybridge_server.repositories.tables import DeadLetterRow as Row
from skybridge_server.repositories.tables import ExecutionLabelRow, ExecutionRow

Query: TypeAlias = "ModelSelect[Row]"  # generic for checkers only

KEYS = (Row.end_time, Row.execution)
REDRIVEN = statements.update(Row, (Row.redriven_as, Row.redrive_time), Row.execution == ANY)
COPY_INPUT = (
    'INSERT INTO "inputs" ("execution_id", "data")'
    ' SELECT ?, "data" FROM "inputs" WHERE "execution_id" = ?'
)


class SqliteDeadLetters:
    """Dead letters by the name of their execution."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: ExecutionName) -> DeadLetter:
        return await self._database.read(lambda db: _find(db, name)[1])

    async def list(self, query: DeadLetterQuery, page: PageRequest) -> Page[DeadLetter]:
        def job(db: SqliteDatabase) -> Page[DeadLetter]:
            rows = [*_listing(query, page).tuples().execute(db)]
            found = page_of(rows, page.size, lambda row: row[:2])
            return Page(tuple(_from_values(row[2:]) for row in found.items), found.next)

        return await self._database.scan(job)

    async def redrive(
        self, name: ExecutionName, execution: Execution, events: Sequence[Event]
    ) -> ExecutionName:
        new = additions.of_new(execution, events, check_function=True)

        def job(db: SqliteDatabase) -> ExecutionName:
            row_id, letter = _find(db, name)
            if letter.redriven_as is not None:
                return letter.redriven_as
            self._database.room.check()
            new_id = additions.store(db, [new])
            db.execute_sql(COPY_INPUT, (new_id, row_id))
            redriven = (execution.name.execution, from_time(execution.create_time), row_id)
            db.execute_sql(REDRIVEN, redriven)
            return execution.name

        return await self._database.write(job)

    async def purge(self, query: DeadLetterQuery, limit: int) -> int:
        found = _chosen(query, ExecutionRow.id, ExecutionRow.execution).order_by(*KEYS).limit(limit)

        def job(db: SqliteDatabase) -> int:
            return discard(db, [*found.tuples().execute(db)])

        return await self._database.write(job)


def _find(db: SqliteDatabase, name: ExecutionName) -> tuple[int, DeadLetter]:
    named = (ExecutionRow.execution == name.execution) & (ExecutionRow.namespace == name.namespace)
    row = _select(ExecutionRow.id, *_values()).where(named).tuples().first(db)
    if row is None:
        raise NotFoundError("dead letter", str(name))
    return row[0], _from_values(row[1:])


def _listing(query: DeadLetterQuery, page: PageRequest) -> Query:
    select = _chosen(query, *KEYS, *_values())
    if page.after:
        key, after = Tuple(*KEYS), Tuple(*page.after)
        select = select.where(key < after if query.descending else key > after)
    order = [key.desc() if query.descending else key.asc() for key in KEYS]
    return select.order_by(*order).limit(page.size + 1)


def _chosen(query: DeadLetterQuery, *columns: Any) -> Query:
    # Those that are being erased lie in another namespace, but only as executions.
    select = _select(*columns).where(
        Row.namespace == query.namespace,
        ExecutionRow.namespace == query.namespace,
        Row.redriven_as.is_null(not query.redriven),
    )
    if query.function:
        select = select.where(ExecutionRow.function == query.function)
    if query.reason is not None:
        select = select.where(ExecutionRow.failure_reason == query.reason)
    if query.ended_from is not None:
        select = select.where(Row.end_time >= from_time(query.ended_from))
    if query.ended_before is not None:
        select = select.where(Row.end_time < from_time(query.ended_before))
    for label in query.labels:
        select = select.where(has_label(ExecutionLabelRow, ExecutionRow.id, label))
    return select


def _select(*columns: Any) -> Query:
    return Row.select(*columns).join(ExecutionRow)


def _values() -> tuple[Any, ...]:
    return (Row.redriven_as, Row.redrive_time, *execution_rows.COLUMNS)


def _from_values(values: tuple[Any, ...]) -> DeadLetter:
    redriven_as, redrive_time, *row = values
    execution = execution_rows.from_values(tuple(row))
    return DeadLetter(
        execution,
        optional(lambda id_: ExecutionName(execution.name.namespace, id_), redriven_as),
        optional(to_time, redrive_time),
    )
