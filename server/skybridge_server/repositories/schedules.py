"""Schedules in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from peewee import IntegrityError, ModelSelect, SqliteDatabase, fn

from skybridge_server.errors import AbortedError, AlreadyExistsError, NotFoundError
from skybridge_server.models.names import ExecutionName, FunctionName, ScheduleName
from skybridge_server.models.paging import Page, PageRequest, ScheduleQuery
from skybridge_server.models.requests import Request
from skybridge_server.models.schedules import Schedule
from skybridge_server.repositories import schedule_rows, statements
from skybridge_server.repositories.codec import from_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.functions import named as named_function
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.schedule_rows import FIXED, OUTCOME, PLAN, READ, WRITTEN
from skybridge_server.repositories.statements import ANY
from skybridge_server.repositories.tables import FunctionRow, ScheduleRow

Query: TypeAlias = "ModelSelect[ScheduleRow]"  # generic for checkers only

NAMED = (ScheduleRow.namespace == "") & (ScheduleRow.schedule == "")
OURS = NAMED & (ScheduleRow.uid == "")
USERS = (ScheduleRow.function, *WRITTEN, ScheduleRow.input)  # in the order of the table

INSERT = statements.insert(ScheduleRow, (*FIXED, *USERS, *OUTCOME, *PLAN))
UPDATE = statements.update(ScheduleRow, USERS, ScheduleRow.id == ANY)
REPLAN = statements.update(ScheduleRow, (*PLAN, ScheduleRow.state_message), ScheduleRow.id == ANY)
FIND = statements.select((ScheduleRow.id, ScheduleRow.uid, ScheduleRow.etag), NAMED)
SETTLE = statements.update(ScheduleRow, OUTCOME, OURS)
MOVE_ON = statements.update(ScheduleRow, PLAN, OURS & (ScheduleRow.next_time == ANY))
NOTE = statements.update(ScheduleRow, (ScheduleRow.last_execution,), OURS)


def _joined(*columns: Any) -> Query:
    return ScheduleRow.select(*columns).join(FunctionRow)


GET: str = _joined(*READ, ScheduleRow.input).where(NAMED).sql()[0]


class SqliteSchedules:
    """Schedules by name, and by the time at which to deal with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, schedule: Schedule, request: Request | None = None) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            values = (
                *schedule_rows.fixed_values(schedule),
                *_users_values(db, schedule),
                *schedule_rows.outcome_values(schedule),
                *schedule_rows.plan_values(schedule),
            )
            try:
                db.execute_sql(INSERT, values)
            except IntegrityError as error:
                raise AlreadyExistsError(
                    f"schedule '{schedule.name}' exists already",
                    reason="SCHEDULE_EXISTS",
                    metadata={"resource": str(schedule.name)},
                ) from error

        await self._database.write(job, len(schedule.spec.input))

    async def get(self, name: ScheduleName) -> Schedule:
        def job(db: SqliteDatabase) -> Schedule:
            row = db.execute_sql(GET, _key(name)).fetchone()
            if row is None:
                raise _not_found(name)
            *values, input_ = row
            return schedule_rows.from_row(tuple(values), bytes(input_))

        return await self._database.read(job)

    async def list(self, query: ScheduleQuery, page: PageRequest) -> Page[Schedule]:
        def job(db: SqliteDatabase) -> Page[Schedule]:
            rows = _listing(query, page).tuples().execute(db)
            items = [schedule_rows.from_row(row) for row in rows]
            return page_of(items, page.size, lambda schedule: (schedule.name.schedule,))

        return await self._database.read(job)

    async def update(
        self,
        schedule: Schedule,
        *,
        expected_etag: str,
        replan: bool,
        request: Request | None = None,
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            row_id, uid = _check_etag(db, schedule.name, expected_etag)
            if uid != schedule.uid:
                raise _not_found(schedule.name)
            db.execute_sql(UPDATE, (*_users_values(db, schedule), row_id))
            if replan:
                plan = schedule_rows.plan_values(schedule)
                db.execute_sql(REPLAN, (*plan, schedule.state_message, row_id))

        await self._database.write(job, len(schedule.spec.input))

    async def delete(
        self, name: ScheduleName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            row_id, _ = _check_etag(db, name, expected_etag)
            ScheduleRow.delete().where(ScheduleRow.id == row_id).execute(db)

        await self._database.write(job)

    async def due(self, now: datetime, limit: int) -> Sequence[ScheduleName]:
        def job(db: SqliteDatabase) -> Sequence[ScheduleName]:
            query = ScheduleRow.select(ScheduleRow.namespace, ScheduleRow.schedule)
            query = query.where(ScheduleRow.wake_time <= from_time(now))
            rows = query.order_by(ScheduleRow.wake_time).limit(limit).tuples().execute(db)
            return [ScheduleName(*row) for row in rows]

        return await self._database.read(job)

    async def next_wake(self) -> datetime | None:
        def job(db: SqliteDatabase) -> datetime | None:
            return optional(to_time, ScheduleRow.select(fn.MIN(ScheduleRow.wake_time)).scalar(db))

        return await self._database.read(job)

    async def settle(self, schedule: Schedule, *, due: datetime) -> None:
        def job(db: SqliteDatabase) -> None:
            ours = (*_key(schedule.name), schedule.uid)
            db.execute_sql(SETTLE, (*schedule_rows.outcome_values(schedule), *ours))
            plan = schedule_rows.plan_values(schedule)
            db.execute_sql(MOVE_ON, (*plan, *ours, from_time(due)))

        await self._database.write(job)

    async def note_execution(self, schedule: Schedule, execution: ExecutionName) -> None:
        def job(db: SqliteDatabase) -> None:
            db.execute_sql(NOTE, (execution.execution, *_key(schedule.name), schedule.uid))

        await self._database.write(job)


def _key(name: ScheduleName) -> tuple[str, str]:
    return name.namespace, name.schedule


def _check_etag(db: SqliteDatabase, name: ScheduleName, expected_etag: str) -> tuple[int, str]:
    """Return id and uid of a schedule that has this etag."""
    row = db.execute_sql(FIND, _key(name)).fetchone()
    if row is None:
        raise _not_found(name)
    row_id, uid, etag = row
    if etag != expected_etag:
        raise AbortedError(
            f"schedule '{name}' was changed by somebody else: read it again, then repeat",
            metadata={"resource": str(name)},
        )
    return row_id, uid


def _users_values(db: SqliteDatabase, schedule: Schedule) -> tuple[Any, ...]:
    """Return the values of USERS. NotFoundError: there is no such function."""
    function_id = _function_id(db, schedule.spec.function)
    return (function_id, *schedule_rows.written_values(schedule), schedule.spec.input)


def _function_id(db: SqliteDatabase, name: FunctionName) -> int:
    row_id: int | None = named_function(FunctionRow.select(FunctionRow.id), name).scalar(db)
    if row_id is None:
        raise NotFoundError("function", str(name))
    return row_id


def _listing(query: ScheduleQuery, page: PageRequest) -> Query:
    select = _joined(*READ).where(ScheduleRow.namespace == query.namespace)
    if query.function:
        select = select.where(FunctionRow.function == query.function)
    if query.paused is not None:
        select = select.where(ScheduleRow.paused == query.paused)
    if page.after:
        select = select.where(ScheduleRow.schedule > page.after[0])
    return select.order_by(ScheduleRow.schedule).limit(page.size + 1)


def _not_found(name: ScheduleName) -> NotFoundError:
    return NotFoundError("schedule", str(name))
