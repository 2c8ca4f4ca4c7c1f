"""Deleting in SQLite: large journals go piece by piece, and the file becomes smaller."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skybridge_server.errors import NotFoundError
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.repositories import retention, upkeep
from skybridge_server.repositories.store import SqliteRepositories
from tests.support.executions import unfinished
from tests.support.waiting import PATIENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELLO = FunctionName("default", "hello")
KIB = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "skybridge.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteRepositories]:
    opened = await SqliteRepositories.open(path)
    yield opened
    await opened.close()


async def add(store: SqliteRepositories, *, chunks: int = 1, size: int = 100) -> ExecutionName:
    """Store an execution that has ended."""
    name = ExecutionName("default", new_id())
    execution = Execution(name, HELLO, "uid", 1, NOW, state=ExecutionState.SUCCEEDED, end_time=NOW)
    events = [
        Event(n, NOW, Output(OutputStream.STDOUT, 0, os.urandom(size))) for n in range(chunks)
    ]
    await store.executions.add(execution, b"input", events)
    return name


async def delete_all(store: SqliteRepositories) -> None:
    while await store.executions.prune(HELLO, ended_before=NOW, keep=0, limit=100):
        pass


def count(path: Path, table: str) -> int:
    with sqlite3.connect(path) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return found


async def test_a_large_journal_goes_piece_by_piece_and_at_once_for_readers(
    store: SqliteRepositories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ERASED_BYTES", 10 * (KIB + retention.EVENT_COST))
    name = await add(store, chunks=25, size=KIB)
    await store.executions.delete(name)
    seen = [count(path, "events")]
    while await store.tidy():
        seen.append(count(path, "events"))
        with pytest.raises(NotFoundError):
            await store.executions.events(name, after=0, limit_bytes=KIB)
    assert seen == [25, 15, 5, 0]
    assert [count(path, table) for table in ("executions", "inputs")] == [0, 0]


async def test_a_restart_goes_on_with_what_was_deleted(
    store: SqliteRepositories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ERASED_BYTES", KIB)
    name, stays = await add(store, chunks=25), await add(store)
    await store.executions.delete(name)
    await store.tidy()
    await store.close()
    again = await SqliteRepositories.open(path)
    with pytest.raises(NotFoundError):
        await again.executions.get(name)
    assert await again.executions.function_names() == [HELLO]
    assert await unfinished(again) == []
    while await again.tidy():
        pass
    assert count(path, "events") == 1
    assert (await again.executions.get(stays)).name == stays
    await again.close()


async def test_the_file_shrinks_but_for_what_is_spare(
    store: SqliteRepositories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "SPARE_PAGES", 64)
    for _ in range(16):
        await add(store, chunks=8, size=64 * KIB)
    kept = await add(store)
    await store.close()
    before = path.stat().st_size
    assert before > 8 * 1024 * KIB

    again = await SqliteRepositories.open(path)
    await again.executions.prune(HELLO, ended_before=NOW, keep=1, limit=100)
    while await again.tidy():
        pass
    assert (await again.executions.get(kept)).name == kept
    await again.close()
    assert path.stat().st_size < 600 * KIB
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_file_that_cannot_shrink_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were made before, with auto_vacuum off, use their free pages again."""
    monkeypatch.setattr(upkeep, "SPARE_PAGES", 0)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE something (id)")
    connection.close()
    store = await SqliteRepositories.open(path)
    await add(store, chunks=8, size=64 * KIB)
    await delete_all(store)
    async with asyncio.timeout(PATIENCE):
        while await store.tidy():
            pass
    assert count(path, "executions") == 0
    await store.close()


async def test_executions_that_are_deleted_twice_at_once_are_deleted_once(
    store: SqliteRepositories, path: Path
) -> None:
    """A row's number may be used again: what has it then must stay."""
    name = await add(store)
    victims = await store._database.read(
        lambda db: retention.find_expired(db, HELLO, 2**60, 0, 100)
    )
    await store.executions.delete(name)
    while await store.tidy():
        pass
    successor = await add(store)
    assert count(path, "executions") == 1
    assert await store._database.write(lambda db: retention.discard(db, victims)) == 0
    assert replace(await store.executions.get(successor)).name == successor
