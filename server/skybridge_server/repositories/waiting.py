"""Executions in SQLite that wait for their time, found by an index that has only them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from peewee import Expression, ModelSelect, SqliteDatabase, fn

from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories import execution_rows, statements
from skybridge_server.repositories.codec import from_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.statements import ANY
from skybridge_server.repositories.tables import UNFINISHED, WAITING
from skybridge_server.repositories.tables import ExecutionRow as Row

Query: TypeAlias = "ModelSelect[Row]"  # generic for checkers only

QUEUED = UNFINISHED & (Row.state == ExecutionState.QUEUED)
CLAIM = statements.update(Row, execution_rows.WAITING, Row.id == ANY)


class SqliteWaiting:
    """Executions that wait for their time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next_time(self) -> datetime | None:
        def job(db: SqliteDatabase) -> datetime | None:
            return optional(to_time, Row.select(fn.MIN(Row.not_before)).where(WAITING).scalar(db))

        return await self._database.read(job)

    async def claim_due(self, now: datetime, limit: int) -> Sequence[Execution]:
        query = _waiting(Row.not_before <= from_time(now)).order_by(Row.not_before, Row.id)
        return await self._claim(query.limit(limit))

    async def claim(self, name: ExecutionName) -> Execution | None:
        named = (Row.execution == name.execution) & (Row.namespace == name.namespace)
        claimed = await self._claim(_waiting(named))
        return claimed[0] if claimed else None

    async def set_aside(self, *, but: int) -> None:
        ready = Row.select(Row.id).where(QUEUED, Row.not_before.is_null(), ~Row.interactive)
        first = ready.order_by(Row.create_time, Row.id).limit(but)
        rest = Row.update(not_before=Row.create_time).where(Row.id << ready, Row.id.not_in(first))
        await self._database.write(rest.execute)

    async def of_function(self, function_uid: str, limit: int) -> Sequence[ExecutionName]:
        query = Row.select(Row.namespace, Row.execution).where(
            WAITING, Row.function_uid == function_uid
        )

        def job(db: SqliteDatabase) -> Sequence[ExecutionName]:
            return [ExecutionName(*row) for row in query.limit(limit).tuples().execute(db)]

        return await self._database.scan(job)

    async def _claim(self, query: Query) -> list[Execution]:
        def job(db: SqliteDatabase) -> list[Execution]:
            rows = [*query.tuples().execute(db)]
            for row_id, *_ in rows:
                db.execute_sql(CLAIM, (None, row_id))
            return [execution_rows.from_values(row[1:]) for row in rows]

        return await self._database.write(job)


def _waiting(condition: Expression) -> Query:
    columns: tuple[Any, ...] = (Row.id, *execution_rows.COLUMNS)
    return Row.select(*columns).where(WAITING, condition)
