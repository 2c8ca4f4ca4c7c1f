"""What an older server has left in its database is there for this one."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from peewee import SqliteDatabase
from playhouse.migrations import Runner

from skybridge_server.models.executions import Execution, ExecutionState, Lease, Queued
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.repositories import execution_rows
from skybridge_server.repositories.schema import MIGRATIONS
from skybridge_server.repositories.store import SqliteRepositories

S = ExecutionState
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HELLO = FunctionName("default", "hello")


def execution(**fields: object) -> Execution:
    added = Execution(ExecutionName("default", new_id()), HELLO, "uid", 1, NOW, background=True)
    return replace(added, **fields)  # type: ignore[arg-type]


def store_as_of(path: Path, migration: str, executions: list[Execution]) -> None:
    """Make a database as it was after a migration, before executions had positions."""
    database = SqliteDatabase(str(path))
    with database.connection_context():
        Runner(database, str(MIGRATIONS)).up(migration)
    names = [column.name for column in execution_rows.COLUMNS]
    with sqlite3.connect(path) as connection:
        for each in executions:
            row = dict(zip(names, execution_rows.values_of(each), strict=True))
            del row["position"]
            marks = ", ".join("?" * len(row))
            columns = ", ".join(f'"{name}"' for name in row)
            connection.execute(
                f"INSERT INTO executions ({columns}) VALUES ({marks})",
                [*row.values()],
            )
    connection.close()


async def test_a_queue_without_positions_keeps_its_order(tmp_path: Path) -> None:
    queued = [execution() for _ in range(3)]
    begun = execution(state=S.RUNNING, start_time=NOW, lease=Lease(1, "me", NOW))
    ended = execution(state=S.SUCCEEDED, start_time=NOW, end_time=NOW)
    later = execution(not_before=NOW + HOUR, due_time=NOW + HOUR)
    path = tmp_path / "skybridge.db"
    store_as_of(path, "0008_deliveries", [queued[0], begun, queued[1], later, ended, queued[2]])
    store = await SqliteRepositories.open(path)
    try:
        assert await store.executions.take_over("me", now=NOW, expire_time=NOW) == [
            replace(begun, lease=Lease(2, "me", NOW))
        ]
        (waiting,) = await store.waiting.queued()
        assert waiting == Queued("uid", RevisionName(HELLO, 1), 3, waiting.last)
        claimed = await store.waiting.claim_first("uid", 10, "me", NOW)
        assert [each.name for each in claimed] == [each.name for each in queued]
        assert await store.waiting.next_time() == NOW + HOUR
        assert await store.executions.get(later.name) == later
        assert await store.executions.get(ended.name) == ended
    finally:
        await store.close()
