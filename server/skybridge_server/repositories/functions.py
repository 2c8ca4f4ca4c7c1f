"""Functions in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from peewee import Model, ModelSelect, SqliteDatabase, Tuple, fn

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
)
from skybridge_server.models.functions import Function, FunctionSpec, FunctionState
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.paging import Cursor, FunctionQuery, Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.repositories import statements
from skybridge_server.repositories.cache import FunctionCache
from skybridge_server.repositories.codec import (
    dumps,
    dumps_labels,
    from_time,
    loads,
    loads_labels,
    to_time,
)
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.labels import has_label
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.tables import (
    UNFINISHED,
    ExecutionRow,
    FunctionLabelRow,
    FunctionRow,
    RevisionRow,
    ScheduleRow,
)

M = TypeVar("M", bound=Model)

COLUMNS = (
    FunctionRow.namespace,
    FunctionRow.function,
    FunctionRow.uid,
    FunctionRow.spec,
    FunctionRow.create_time,
    FunctionRow.update_time,
    FunctionRow.description,
    FunctionRow.labels,
    FunctionRow.state,
    FunctionRow.state_message,
    FunctionRow.generation,
    FunctionRow.etag,
    FunctionRow.active_revision,
)
LAST_ID = FunctionRow.select(fn.MAX(FunctionRow.id)).sql()[0]
INSERT = statements.Insert(FunctionRow, (FunctionRow.id, *COLUMNS))
GET = statements.select(COLUMNS, (FunctionRow.namespace == "") & (FunctionRow.function == ""))


@dataclass(frozen=True, slots=True)
class New:
    """A function to create, with the values of its row."""

    function: Function
    values: tuple[Any, ...]
    request: Request | None


class SqliteFunctions:
    """Functions by name."""

    def __init__(self, database: Database, cache: FunctionCache) -> None:
        self._database = database
        self._cache = cache

    async def create(self, function: Function, request: Request | None = None) -> None:
        new = New(function, _values_of(function), request)
        await self._cache.change(function.name, self._database.write_together(_create, new))

    async def get(self, name: FunctionName) -> Function:
        def job(db: SqliteDatabase) -> Function:
            row = db.execute_sql(GET, (name.namespace, name.function)).fetchone()
            if row is None:
                raise _not_found(name)
            return _from_row(row)

        return self.find(name) or await self._cache.read(name, self._database.read(job))

    def find(self, name: FunctionName) -> Function | None:
        return self._cache.find(name)

    async def list(self, query: FunctionQuery, page: PageRequest) -> Page[Function]:
        def job(db: SqliteDatabase) -> Page[Function]:
            rows = _listing(query, page).tuples().execute(db)
            return page_of([_from_row(row) for row in rows], page.size, _cursor_of(query))

        return await self._database.read(job)

    async def update(
        self, function: Function, *, expected_etag: str, request: Request | None = None
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            row_id = update(db, function, expected_etag)
            if function.active_revision:
                check_revision(db, row_id, RevisionName(function.name, function.active_revision))

        await self._cache.change(function.name, self._database.write(job))

    async def delete(
        self,
        name: FunctionName,
        *,
        expected_etag: str,
        with_schedules: bool = False,
        request: Request | None = None,
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            row_id, uid = _check_etag(db, name, expected_etag)
            unfinished = ExecutionRow.select().where(UNFINISHED, ExecutionRow.function_uid == uid)
            if unfinished.exists(db):
                raise FailedPreconditionError(
                    f"function '{name}' has executions that have not ended: "
                    "cancel them, wait for them, or set `force`",
                    reason="EXECUTIONS_UNFINISHED",
                    metadata={"resource": str(name)},
                )
            if not with_schedules and _has_schedules(db, row_id):
                raise FailedPreconditionError(
                    f"function '{name}' has schedules that execute it: delete them, or set `force`,"
                    " which deletes them with it",
                    reason="SCHEDULES_EXIST",
                    metadata={"resource": str(name)},
                )
            FunctionRow.delete().where(FunctionRow.id == row_id).execute(db)

        await self._cache.change(name, self._database.write(job))

    async def names(self) -> Sequence[FunctionName]:
        def job(db: SqliteDatabase) -> list[FunctionName]:
            columns = (FunctionRow.namespace, FunctionRow.function)
            rows = FunctionRow.select(*columns).order_by(*columns).tuples().execute(db)
            return [FunctionName(*row) for row in rows]

        return await self._database.read(job)


def update(db: SqliteDatabase, function: Function, expected_etag: str) -> int:
    """Replace a stored function; return the id of its row."""
    row_id, uid = _check_etag(db, function.name, expected_etag)
    if uid != function.uid:
        raise _not_found(function.name)
    row = dict(zip(COLUMNS, _values_of(function), strict=True))
    FunctionRow.update(row).where(FunctionRow.id == row_id).execute(db)
    FunctionLabelRow.delete().where(FunctionLabelRow.owner == row_id).execute(db)
    _insert_labels(db, row_id, function)
    return row_id


def check_revision(db: SqliteDatabase, function_id: int, name: RevisionName) -> None:
    """Raise NotFoundError if a revision was pruned meanwhile."""
    found = RevisionRow.select().where(
        RevisionRow.function == function_id, RevisionRow.number == name.number
    )
    if not found.exists(db):
        raise NotFoundError("revision", str(name))


def _create(db: SqliteDatabase, many: Sequence[New]) -> None:
    """Create functions as part of a change. AlreadyExistsError: one of them exists."""
    for new in many:
        record(db, new.request)
    (last,) = db.execute_sql(LAST_ID).fetchone()
    numbered = [*enumerate(many, (last or 0) + 1)]
    try:
        INSERT.run(db, [(row_id, *new.values) for row_id, new in numbered])
    except sqlite3.IntegrityError as error:
        name = many[0].function.name  # of several, each is tried alone
        raise AlreadyExistsError(
            f"function '{name}' exists already",
            reason="FUNCTION_EXISTS",
            metadata={"resource": str(name)},
        ) from error
    for row_id, new in numbered:
        _insert_labels(db, row_id, new.function)


def _has_schedules(db: SqliteDatabase, row_id: int) -> bool:
    return ScheduleRow.select().where(ScheduleRow.function == row_id).exists(db)


@lru_cache(maxsize=1024)
def load_spec(text: str) -> FunctionSpec:
    """Return a specification: read for every execution, seldom written, and frozen."""
    return loads(FunctionSpec, text)


def _check_etag(db: SqliteDatabase, name: FunctionName, expected_etag: str) -> tuple[int, str]:
    """Return id and uid of a function that has this etag."""
    columns = (FunctionRow.id, FunctionRow.uid, FunctionRow.etag)
    row = named(FunctionRow.select(*columns), name).tuples().first(db)
    if row is None:
        raise _not_found(name)
    row_id, uid, etag = row
    if etag != expected_etag:
        raise AbortedError(
            f"function '{name}' was changed by somebody else: read it again, then repeat",
            metadata={"resource": str(name)},
        )
    return row_id, uid


def named(query: ModelSelect[M], name: FunctionName) -> ModelSelect[M]:
    """Narrow a query over functions down to one."""
    return query.where(
        FunctionRow.namespace == name.namespace, FunctionRow.function == name.function
    )


def _listing(query: FunctionQuery, page: PageRequest) -> ModelSelect[FunctionRow]:
    select = FunctionRow.select(*COLUMNS).where(FunctionRow.namespace == query.namespace)
    if query.name_prefix:
        end = query.name_prefix + "\U0010ffff"
        select = select.where(FunctionRow.function.between(query.name_prefix, end))
    if query.state is not None:
        select = select.where(FunctionRow.state == query.state)
    for label in query.labels:
        select = select.where(has_label(FunctionLabelRow, FunctionRow.id, label))
    keys = _sort_keys(query)
    if page.after:
        key, after = Tuple(*keys), Tuple(*page.after)
        select = select.where(key < after if query.descending else key > after)
    order = [key.desc() if query.descending else key.asc() for key in keys]
    return select.order_by(*order).limit(page.size + 1)


def _sort_keys(query: FunctionQuery) -> tuple[Any, ...]:
    if query.order_by == "name":
        return (FunctionRow.function,)
    return (getattr(FunctionRow, query.order_by), FunctionRow.function)


def _cursor_of(query: FunctionQuery) -> Any:
    def cursor(function: Function) -> Cursor:
        if query.order_by == "name":
            return (function.name.function,)
        return (from_time(getattr(function, query.order_by)), function.name.function)

    return cursor


def _insert_labels(db: SqliteDatabase, row_id: int, function: Function) -> None:
    rows = [{"owner": row_id, "key": k, "value": v} for k, v in function.labels.items()]
    if rows:
        FunctionLabelRow.insert_many(rows).execute(db)


def _values_of(function: Function) -> tuple[Any, ...]:
    return (
        function.name.namespace,
        function.name.function,
        function.uid,
        dumps(function.spec),
        from_time(function.create_time),
        from_time(function.update_time),
        function.description,
        dumps_labels(function.labels),
        function.state,
        function.state_message,
        function.generation,
        function.etag,
        function.active_revision,
    )


def _from_row(row: Any) -> Function:
    (namespace, function, uid, spec, create_time, update_time, description, labels) = row[:8]
    (state, state_message, generation, etag, active_revision) = row[8:]
    return Function(
        name=FunctionName(namespace, function),
        uid=uid,
        spec=load_spec(spec),
        create_time=to_time(create_time),
        update_time=to_time(update_time),
        description=description,
        labels=loads_labels(labels),
        state=FunctionState(state),
        state_message=state_message,
        generation=generation,
        etag=etag,
        active_revision=active_revision,
    )


def _not_found(name: FunctionName) -> NotFoundError:
    return NotFoundError("function", str(name))
