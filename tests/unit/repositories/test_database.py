from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from peewee import SqliteDatabase

from skybridge_server.errors import NotFoundError, StorageError
from skybridge_server.repositories import database as module
from skybridge_server.repositories.database import Database, Job, lock_file
from tests.support.waiting import PATIENCE


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    path = tmp_path / "test.db"
    opened = Database(path, lock_file(path), asyncio.get_running_loop())
    await opened.write(execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    await opened.write(
        execute(
            "CREATE TABLE things (id INTEGER PRIMARY KEY, parent INTEGER"
            " REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    yield opened
    await opened.close()


def execute(sql: str, *values: object) -> Job[None]:
    def job(db: SqliteDatabase) -> None:
        db.execute_sql(sql, values)

    return job


def insert(number: int, parent: int | None = None) -> Job[None]:
    return execute("INSERT INTO things VALUES (?, ?)", number, parent)


def ids(db: SqliteDatabase) -> list[int]:
    return [row[0] for row in db.execute_sql("SELECT id FROM things ORDER BY id")]


class Gate:
    """Holds the writer, so that what follows ends up in one batch."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 10)

    def job(self, _: SqliteDatabase) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


async def in_one_batch(database: Database, *jobs: Job[object]) -> list[object]:
    gate = Gate()
    held = database.write(gate.job)
    await gate.reached()
    futures = [database.write(job) for job in jobs]
    gate.open()
    await held
    return await asyncio.gather(*futures, return_exceptions=True)


async def test_a_failing_job_fails_alone(database: Database) -> None:
    def wrong(db: SqliteDatabase) -> None:
        insert(2)(db)
        raise NotFoundError("thing", "2")

    results = await in_one_batch(
        database, insert(1), wrong, insert(1), execute("NONSENSE"), insert(3)
    )
    assert [type(result) for result in results] == [
        type(None),
        NotFoundError,
        StorageError,
        StorageError,
        type(None),
    ]
    assert await database.read(ids) == [1, 3]


async def test_what_is_done_together_fails_alone_too(database: Database) -> None:
    done: list[list[int]] = []

    def insert_all(db: SqliteDatabase, many: Sequence[int]) -> None:
        done.append([*many])
        for number in many:
            insert(number)(db)

    async def together(*numbers: int) -> list[object]:
        gate = Gate()
        held = database.write(gate.job)
        await gate.reached()
        futures = [database.write_together(insert_all, number) for number in numbers]
        futures.append(database.write(insert(10 + len(done))))
        gate.open()
        await held
        return await asyncio.gather(*futures, return_exceptions=True)

    assert await together(1, 2, 3) == [None] * 4
    assert done == [[1, 2, 3]]
    assert [type(each) for each in await together(4, 1, 5)] == [
        type(None),
        StorageError,
        type(None),
        type(None),
    ]
    assert done[1:] == [[4, 1, 5], [4], [1], [5]]
    assert await database.read(ids) == [1, 2, 3, 4, 5, 10, 11]


async def test_patient_changes_wait_for_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.write(insert(1), patient=True)  # for a while only
    monkeypatch.setattr(module, "PATIENT_SECONDS", 3600)
    second = database.write(insert(2), patient=True)
    assert await database.read(ids) == [1]
    await database.write(insert(3))
    assert second.done()
    assert await database.read(ids) == [1, 2, 3]
    last = database.write(insert(4), patient=True)
    await database.close()
    await last


async def test_a_failing_commit_fails_its_batch_and_no_other(database: Database) -> None:
    results = await in_one_batch(database, insert(1), insert(2, parent=99), insert(3))
    assert all(isinstance(result, StorageError) for result in results)
    assert "FOREIGN KEY" in str(results[0])
    assert await database.read(ids) == []
    await database.write(insert(4))
    assert await database.read(ids) == [4]


async def test_jobs_run_in_the_order_of_the_calls(database: Database) -> None:
    seen: list[int] = []
    jobs = [lambda _, n=n: seen.append(n) for n in range(3000)]
    await in_one_batch(database, *jobs)
    assert seen == [*range(3000)]


async def test_a_full_database_recovers_once_there_is_room(database: Database) -> None:
    def limit(pages: int) -> Job[None]:
        return execute(f"PRAGMA max_page_count = {pages}")

    await database.write(execute("CREATE TABLE blobs (data BLOB)"))
    blob = execute("INSERT INTO blobs VALUES (?)", b"x" * 200_000)
    await database.write(limit(20))
    results = await in_one_batch(database, insert(1), blob, insert(2))
    assert isinstance(results[1], StorageError)
    assert "full" in str(results[1])
    # Whoever was told that it is written finds it.
    kept = [n for n, result in ((1, results[0]), (2, results[2])) if result is None]
    assert await database.read(ids) == kept
    await database.write(limit(10_000))
    await database.write(blob)
    await database.write(insert(3))
    assert await database.read(ids) == [*kept, 3]


async def test_what_waits_for_the_disk_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10 * module.JOB_BYTES)
    gate = Gate()
    held = database.write(gate.job)
    accepted = database.write(insert(1), cost=7 * module.JOB_BYTES)
    with pytest.raises(StorageError, match="too slow"):
        database.write(insert(2), cost=module.JOB_BYTES)
    gate.open()
    await asyncio.gather(held, accepted)
    await database.write(insert(3), cost=7 * module.JOB_BYTES)
    assert await database.read(ids) == [1, 3]


async def test_a_caller_that_leaves_takes_nothing_with_it(database: Database) -> None:
    gate = Gate()
    held = database.write(gate.job)
    left, stays = database.write(insert(1)), database.write(insert(2))
    left.cancel()
    gate.open()
    await asyncio.gather(held, stays)
    assert await database.read(ids) == [1, 2]


async def test_readers_cannot_write(database: Database) -> None:
    for run in (database.read, database.scan):
        with pytest.raises(StorageError, match="readonly"):
            await run(insert(1))


async def test_a_scan_holds_up_no_read(database: Database) -> None:
    gate = Gate()
    scans = [database.scan(gate.job) for _ in range(5)]
    assert await database.read(ids) == []
    assert not any(scan.done() for scan in scans)
    gate.open()
    await asyncio.gather(*scans)


async def test_another_process_that_writes_is_waited_for(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waiting = database.write(insert(1))
    other.execute("INSERT INTO things VALUES (2, NULL)")
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    await waiting
    assert await database.read(ids) == [1, 2]


async def test_a_database_locked_for_too_long_is_an_error(
    database: Database, tmp_path: Path
) -> None:
    await database.write(execute("PRAGMA busy_timeout = 1"))
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked"):
        await database.write(insert(1))
    assert await database.read(ids) == []
    other.execute("ROLLBACK")
    other.close()
    await database.write(insert(2))
    assert await database.read(ids) == [2]


async def test_closing_writes_what_is_queued(database: Database, tmp_path: Path) -> None:
    gate = Gate()
    database.write(gate.job)
    futures = [database.write(insert(number)) for number in range(100)]
    closing = asyncio.create_task(database.close())
    gate.open()
    await closing
    await asyncio.gather(*futures)
    await database.close()
    with sqlite3.connect(tmp_path / "test.db") as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (100,)
    connection.close()
    with pytest.raises(StorageError, match="closed"):
        database.write(insert(1))


async def test_commits_reach_the_disk(database: Database) -> None:
    def settings(db: SqliteDatabase) -> list[object]:
        return [
            db.execute_sql(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    for run in (database.write, database.read, database.scan):
        assert await run(settings) == ["wal", 2, 1]
