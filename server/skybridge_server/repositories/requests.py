"""Idempotent requests in SQLite."""

from __future__ import annotations

from datetime import datetime

from peewee import IntegrityError, SqliteDatabase, Tuple

from skybridge_server.errors import AlreadyExistsError
from skybridge_server.models.functions import Function
from skybridge_server.models.requests import Request
from skybridge_server.repositories import statements
from skybridge_server.repositories.codec import dumps, from_time, loads, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.tables import RequestRow

COLUMNS = (
    RequestRow.method,
    RequestRow.request_id,
    RequestRow.fingerprint,
    RequestRow.create_time,
    RequestRow.resource,
    RequestRow.answer,
)
INSERT = statements.insert(RequestRow, COLUMNS)
FIND = statements.select(COLUMNS, (RequestRow.method == "") & (RequestRow.request_id == ""))


class SqliteRequests:
    """Idempotent requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, method: str, request_id: str) -> Request | None:
        def job(db: SqliteDatabase) -> Request | None:
            row = db.execute_sql(FIND, (method, request_id)).fetchone()
            return optional(_from_row, row)

        return await self._database.read(job)

    async def prune(self, before: datetime, *, limit: int) -> int:
        def job(db: SqliteDatabase) -> int:
            key = (RequestRow.method, RequestRow.request_id)
            old = RequestRow.select(*key).where(RequestRow.create_time < from_time(before))
            return int(RequestRow.delete().where(Tuple(*key).in_(old.limit(limit))).execute(db))

        return await self._database.write(job)


def record(db: SqliteDatabase, request: Request | None) -> None:
    """Record a request, if there is one, as part of a change."""
    if request is None:
        return
    values = (
        request.method,
        request.request_id,
        request.fingerprint,
        from_time(request.create_time),
        request.resource,
        optional(dumps, request.function),
    )
    try:
        db.execute_sql(INSERT, values)
    except IntegrityError as error:
        raise AlreadyExistsError(
            f"request id '{request.request_id}' was used before for {request.method}",
            reason="REQUEST_ID_USED",
            metadata={"request_id": request.request_id},
        ) from error


def _from_row(row: tuple[str, str, str, int, str, str | None]) -> Request:
    method, request_id, fingerprint, create_time, resource, answer = row
    return Request(
        method=method,
        request_id=request_id,
        fingerprint=fingerprint,
        create_time=to_time(create_time),
        resource=resource,
        function=optional(lambda text: loads(Function, text), answer),
    )
