"""Deliveries in SQLite: those that are to be tried, by an index that has only them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from peewee import Expression, SqliteDatabase, fn

from skybridge_server.models.destinations import Delivery
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories import delivery_rows, statements
from skybridge_server.repositories.codec import from_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.statements import ANY
from skybridge_server.repositories.tables import DISCARDED, PENDING, ExecutionRow
from skybridge_server.repositories.tables import DeliveryRow as Row

UPDATE = statements.update(Row, delivery_rows.CHANGING, Row.uid == ANY)


class SqliteDeliveries:
    """Deliveries by the time at which to try them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next_time(self, *, after: datetime) -> datetime | None:
        query = Row.select(fn.MIN(Row.next_time)).where(
            PENDING & (Row.next_time > from_time(after))
        )

        def job(db: SqliteDatabase) -> datetime | None:
            return optional(to_time, query.scalar(db))

        return await self._database.read(job)

    async def due(self, now: datetime, limit: int) -> Sequence[Delivery]:
        return await self._select(PENDING & (Row.next_time <= from_time(now)), limit)

    async def of_execution(self, name: ExecutionName) -> Sequence[Delivery]:
        return await self._select(
            (ExecutionRow.execution == name.execution) & (ExecutionRow.namespace == name.namespace),
            limit=100,
        )

    async def update(self, delivery: Delivery) -> None:
        values = (*delivery_rows.changing_values(delivery), delivery.uid)

        def job(db: SqliteDatabase) -> None:
            db.execute_sql(UPDATE, values)

        await self._database.write(job)

    async def _select(self, condition: Expression, limit: int) -> Sequence[Delivery]:
        columns: tuple[Any, ...] = (ExecutionRow.namespace, ExecutionRow.execution)
        query = Row.select(*columns, *delivery_rows.FIXED, *delivery_rows.CHANGING)
        query = query.join(ExecutionRow).where(condition, ExecutionRow.namespace != DISCARDED)
        query = query.order_by(Row.next_time, Row.uid).limit(limit)

        def job(db: SqliteDatabase) -> Sequence[Delivery]:
            return [
                delivery_rows.from_values(ExecutionName(*row[:2]), row[2:])
                for row in query.tuples().execute(db)
            ]

        return await self._database.read(job)
