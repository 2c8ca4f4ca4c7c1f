"""Executions in SQLite that wait: for their time, or in the queue. Indexes have only them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from peewee import SQL, Expression, ModelSelect, SqliteDatabase, fn

from skybridge_server.models.executions import Execution, Queued
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName
from skybridge_server.repositories import execution_rows
from skybridge_server.repositories.codec import from_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.tables import QUEUED, WAITING
from skybridge_server.repositories.tables import ExecutionRow as Row

Query: TypeAlias = "ModelSelect[Row]"  # generic for checkers only

PLACE = (Row.namespace, Row.function, Row.function_uid, Row.revision)


class SqliteWaiting:
    """Executions that wait for their time, or for a place."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next_time(self) -> datetime | None:
        def job(db: SqliteDatabase) -> datetime | None:
            return optional(to_time, Row.select(fn.MIN(Row.not_before)).where(WAITING).scalar(db))

        return await self._database.read(job)

    async def queue_due(self, now: datetime, limit: int, position: int) -> Sequence[Queued]:
        due = Row.select(Row.id, *PLACE).where(WAITING, Row.not_before <= from_time(now))
        first = due.order_by(Row.not_before, Row.id).limit(limit)

        def job(db: SqliteDatabase) -> Sequence[Queued]:
            queued = []
            for place, (row_id, *values) in enumerate(first.tuples().execute(db), position):
                Row.update(position=place).where(Row.id == row_id).execute(db)
                queued.append(_queued((*values, 1, place)))
            return queued

        return await self._database.write(job)

    async def queued(self) -> Sequence[Queued]:
        query = Row.select(*PLACE, fn.COUNT(Row.id), fn.MAX(Row.position)).where(QUEUED)
        grouped = query.group_by(Row.function_uid, Row.revision)

        def job(db: SqliteDatabase) -> Sequence[Queued]:
            return [_queued(row) for row in grouped.tuples().execute(db)]

        return await self._database.scan(job)

    async def claim_first(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        mine = _ids(QUEUED, Row.function_uid == function_uid).order_by(Row.position, Row.id)
        return await self._claim(mine.limit(limit), owner, expire_time)

    async def claim_late(
        self, place: Queued, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        mine = (Row.function_uid == place.function_uid) & (Row.revision == place.revision.number)
        late = _ids(QUEUED, mine & (Row.position <= place.last)).order_by(Row.position, Row.id)
        return await self._claim(late.limit(limit), owner, expire_time)

    async def claim(
        self, name: ExecutionName, owner: str, expire_time: datetime
    ) -> Execution | None:
        named = (Row.execution == name.execution) & (Row.namespace == name.namespace)
        claimed = await self._claim(_ids(named, WAITING | QUEUED), owner, expire_time)
        return claimed[0] if claimed else None

    async def claim_any(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        mine = Row.function_uid == function_uid
        queued = await self._claim(_ids(QUEUED, mine).limit(limit), owner, expire_time)
        if queued:
            return queued
        return await self._claim(_ids(WAITING, mine).limit(limit), owner, expire_time)

    async def _claim(self, waiting: Query, owner: str, expire_time: datetime) -> list[Execution]:
        """Take the leases of all that a query finds, in one statement; return them in order."""
        taking = Row.update(
            lease_epoch=Row.lease_epoch + 1,
            lease_owner=owner,
            lease_expire_time=from_time(expire_time),
        )
        claim = taking.where(Row.id.in_(waiting)).returning(Row.id, *execution_rows.COLUMNS).sql()

        def job(db: SqliteDatabase) -> list[Execution]:
            rows: list[tuple[Any, ...]] = db.execute_sql(*claim).fetchall()
            # The statement promises no order. Rows that were claimed together have positions, or
            # none of them has.
            found = {row_id: execution_rows.from_values(tuple(row)) for row_id, *row in rows}
            ordered = sorted(found.items(), key=lambda item: (item[1].position or 0, item[0]))
            return [execution for _, execution in ordered]

        return await self._database.write(job)


def _ids(*conditions: Expression | SQL) -> Query:
    return Row.select(Row.id).where(*conditions)


def _queued(values: tuple[Any, ...]) -> Queued:
    """Return what the values of PLACE, a count and a position describe."""
    namespace, function, function_uid, revision, count, last = values
    name = RevisionName(FunctionName(namespace, function), revision)
    return Queued(function_uid, name, count, last)
