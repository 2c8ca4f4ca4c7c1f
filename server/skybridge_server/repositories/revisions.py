"""Revisions of functions in SQLite."""

from __future__ import annotations

from typing import Any

from peewee import ModelSelect, SqliteDatabase, fn

from skybridge_server.errors import AbortedError, NotFoundError
from skybridge_server.models.functions import Function, Revision
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.repositories.cache import FunctionCache
from skybridge_server.repositories.codec import dumps, from_time, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.functions import load_spec, named, update
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.tables import (
    UNFINISHED,
    ExecutionRow,
    FunctionRow,
    RevisionRow,
)

COLUMNS = (
    RevisionRow.number,
    RevisionRow.spec,
    RevisionRow.image_id,
    RevisionRow.image_digest,
    RevisionRow.platform,
    RevisionRow.image_bytes,
    RevisionRow.generation,
    RevisionRow.create_time,
)


def _revisions_of(function: FunctionName, *columns: Any) -> ModelSelect[RevisionRow]:
    return named(RevisionRow.select(*columns).join(FunctionRow), function)


def _revision(name: RevisionName) -> ModelSelect[RevisionRow]:
    return _revisions_of(name.function, *COLUMNS).where(RevisionRow.number == name.number)


GET: str = _revision(RevisionName(FunctionName("", ""), 0)).sql()[0]


class SqliteRevisions:
    """Revisions of functions."""

    def __init__(self, database: Database, cache: FunctionCache) -> None:
        self._database = database
        self._cache = cache

    async def activate_new(
        self,
        function: Function,
        revision: Revision,
        *,
        expected_etag: str,
        request: Request | None = None,
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            row_id = update(db, function, expected_etag)
            if _revision(revision.name).exists(db):
                raise AbortedError(
                    f"revision '{revision.name}' exists already: "
                    "another deployment was faster, repeat yours",
                    metadata={"resource": str(revision.name)},
                )
            row = dict(zip(COLUMNS, _values_of(revision), strict=True))
            RevisionRow.insert({RevisionRow.function: row_id, **row}).execute(db)

        await self._cache.change(function.name, self._database.write(job))

    async def get(self, name: RevisionName) -> Revision:
        def job(db: SqliteDatabase) -> Revision:
            function = name.function
            values = (function.namespace, function.function, name.number)
            row = db.execute_sql(GET, values).fetchone()
            if row is None:
                raise NotFoundError("revision", str(name))
            return _from_values(function, row)

        return await self._database.read(job)

    async def latest_number(self, function: FunctionName, *, before: int | None = None) -> int:
        def job(db: SqliteDatabase) -> int:
            query = _revisions_of(function, fn.MAX(RevisionRow.number))
            if before is not None:
                query = query.where(RevisionRow.number < before)
            return query.scalar(db) or 0

        return await self._database.read(job)

    async def list(self, function: FunctionName, page: PageRequest) -> Page[Revision]:
        def job(db: SqliteDatabase) -> Page[Revision]:
            query = _revisions_of(function, *COLUMNS).order_by(RevisionRow.number.desc())
            if page.after:
                query = query.where(RevisionRow.number < page.after[0])
            rows = query.limit(page.size + 1).tuples().execute(db)
            items = [_from_values(function, row) for row in rows]
            return page_of(items, page.size, lambda revision: (revision.name.number,))

        return await self._database.read(job)

    async def prune(self, function: FunctionName, *, keep: int, limit: int) -> int:
        def job(db: SqliteDatabase) -> int:
            doomed = _prunable(db, function, keep).limit(limit).tuples().execute(db)
            ids = [row_id for (row_id,) in doomed]
            return int(RevisionRow.delete().where(RevisionRow.id.in_(ids)).execute(db))

        return await self._database.write(job)


def _prunable(db: SqliteDatabase, function: FunctionName, keep: int) -> ModelSelect[RevisionRow]:
    """Return the revisions that nobody needs, the oldest first."""
    newest = _revisions_of(function, RevisionRow.number).order_by(RevisionRow.number.desc())
    oldest_kept = newest.offset(keep - 1).limit(1).scalar(db) or 0
    used = ExecutionRow.select(ExecutionRow.revision).where(
        UNFINISHED,
        ExecutionRow.namespace == function.namespace,
        ExecutionRow.function_uid == FunctionRow.uid,
    )
    return (
        _revisions_of(function, RevisionRow.id)
        .where(RevisionRow.number < oldest_kept)
        .where(RevisionRow.number != FunctionRow.active_revision)
        .where(RevisionRow.number.not_in(used))
        .order_by(RevisionRow.number)
    )


def _values_of(revision: Revision) -> tuple[Any, ...]:
    return (
        revision.name.number,
        dumps(revision.spec),
        revision.image_id,
        revision.image_digest,
        revision.platform,
        revision.image_bytes,
        revision.generation,
        from_time(revision.create_time),
    )


def _from_values(function: FunctionName, values: tuple[Any, ...]) -> Revision:
    number, spec, image_id, image_digest, platform, image_bytes, generation, create_time = values
    return Revision(
        name=RevisionName(function, number),
        spec=load_spec(spec),
        image_id=image_id,
        image_digest=image_digest,
        platform=platform,
        image_bytes=image_bytes,
        generation=generation,
        create_time=to_time(create_time),
    )
