"""A full disk: new executions are refused first, and all goes on once there is room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from skybridge_server.errors import StorageFullError
from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.repositories import room
from skybridge_server.repositories.database import Job
from skybridge_server.repositories.store import SqliteRepositories
from tests.support.executions import unfinished

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVERYTHING = 2**62


@pytest.fixture
async def store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqliteRepositories]:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0)
    opened = await SqliteRepositories.open(tmp_path / "skybridge.db")
    yield opened
    await opened.close()


async def add(store: SqliteRepositories) -> ExecutionName:
    name = ExecutionName("default", new_id())
    await store.executions.add(
        Execution(name, FunctionName("default", "hello"), "uid", 1, NOW), b"input", [output(1)]
    )
    return name


def output(sequence: int) -> Event:
    return Event(sequence, NOW, Output(OutputStream.STDOUT, 0, b"x" * 5000))


def largest(pages: int) -> Job[None]:
    def job(db: SqliteDatabase) -> None:
        db.execute_sql(f"PRAGMA max_page_count = {pages}")

    return job


async def test_the_last_room_is_for_what_was_accepted(
    store: SqliteRepositories, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await add(store)
    monkeypatch.setattr(room, "RESERVE_BYTES", EVERYTHING)
    with pytest.raises(StorageFullError, match="FAAS_EXECUTION_RETENTION") as caught:
        await add(store)
    assert caught.value.reason == "STORAGE_FULL"
    await store.executions.append(accepted, [output(2)])
    assert [each.name for each in await unfinished(store)] == [accepted]
    monkeypatch.setattr(room, "RESERVE_BYTES", 0)
    await add(store)


async def test_a_database_of_its_largest_size_says_so_until_it_may_grow(
    store: SqliteRepositories,
) -> None:
    accepted, sequence = await add(store), 1

    async def fill() -> None:
        nonlocal sequence
        while True:
            await store.executions.append(accepted, [output(sequence + 1)])
            sequence += 1

    await store._database.write(largest(100))
    with pytest.raises(StorageFullError, match="is full"):
        await fill()
    assert sequence > 1
    events = await store.executions.events(accepted, after=0, limit_bytes=EVERYTHING)
    assert [event.sequence for event in events] == [*range(1, sequence + 1)]
    await store._database.write(largest(10_000))
    await store.executions.append(accepted, [output(sequence + 1)])


async def test_what_is_deleted_makes_room(store: SqliteRepositories) -> None:
    async def fill() -> None:
        while True:
            await add(store)

    await store._database.write(largest(100))
    with pytest.raises(StorageFullError):
        await fill()
    await store._database.write(
        lambda db: db.execute_sql("UPDATE executions SET state = 5, end_time = 0").rowcount
    )
    await store.executions.prune(
        FunctionName("default", "hello"), ended_before=NOW, keep=0, limit=100
    )
    while await store.tidy():
        pass
    await add(store)
