"""The database file: one thread writes, four read, and all of them work in batches.

SQLite has one writer at a time and a durable commit costs far more than the statements in it. So
all changes that have queued up while the last commit ran share the next one: a job is a function
that gets the database, one that fails takes back its own effects alone, and its future completes
once the whole batch is on disk. Readers use the same loop, since one wake-up of the event loop for
a batch of answers is what makes a read cheap. Reads that walk many rows have threads of their own,
so that they never hold up an execution.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from peewee import PeeweeException, SqliteDatabase

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.repositories.room import Room, no_room

T = TypeVar("T")

Job = Callable[[SqliteDatabase], T]
"""Work on the database, run on one of its threads."""

Item_contra = TypeVar("Item_contra", contravariant=True)


class Work(Protocol[Item_contra]):
    """Work on the database that is cheaper for many items at once than for each alone."""

    def __call__(self, db: SqliteDatabase, many: Sequence[Item_contra]) -> None: ...


MIB = 1024 * 1024
MAX_QUEUED_BYTES = 256 * MIB
"""What may wait for the disk before callers are refused."""
JOB_BYTES = 1024
"""What a job weighs beside its data."""

READ_BATCH_JOBS = 16  # small, so that the other reader gets its share of what queues up
WRITE_BATCH_JOBS = 1000
BATCH_BYTES = 8 * MIB
PATIENT_SECONDS = 0.02

DATABASE_ERRORS = (PeeweeException, sqlite3.Error)


def connect_to(path: Path) -> SqliteDatabase:
    """Return the database of a file, not yet connected: each thread has a connection of its own."""
    return SqliteDatabase(
        str(path),
        autoconnect=False,
        timeout=10,  # seconds to wait for another process, such as a backup
        pragmas=(
            ("journal_mode", "wal"),
            ("synchronous", "full"),
            ("foreign_keys", 1),
            ("wal_autocheckpoint", 4000),  # pages of 4 KiB
            ("journal_size_limit", 64 * MIB),
            # KiB for each thread: few pages are hot, and the system's own cache has the others.
            ("cache_size", -1024),
        ),
    )


class _Task(Generic[T]):
    """A job, its weight in bytes, and what became of it."""

    __slots__ = ("cost", "error", "future", "job", "result", "together")

    def __init__(self, job: Job[T], cost: int, future: asyncio.Future[T]) -> None:
        self.job = job
        self.cost = cost
        self.future = future
        self.result: T | None = None
        self.error: Exception | None = None
        self.together: tuple[Work[Any], Any] | None = None
        """The work that is done on many items at once, and its item."""

    def run(self, database: SqliteDatabase) -> None:
        """Do the job, perhaps once more after its effects were taken back."""
        self.error = None
        try:
            self.result = self.job(database)
        except DATABASE_ERRORS as error:
            self.error = _storage_error(error)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            self.error = error

    def settle(self) -> None:
        """Tell the caller, unless it has gone."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]


_Queue = SimpleQueue["Sequence[_Task[Any]] | None"]
"""Tasks as they are handed over, and None to stop. Each hand-over may wake a thread, and have it
ask for the interpreter's lock, which costs as much as a few statements."""


class _Worker(threading.Thread):
    """Takes what has queued up, runs it in one transaction, and hands it back."""

    def __init__(
        self,
        name: str,
        database: SqliteDatabase,
        queue: _Queue,
        hand_back: Callable[[Sequence[_Task[Any]]], None],
        *,
        writes: bool,
        max_jobs: int,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._database = database
        self._queue = queue
        self._hand_back = hand_back
        self._writes = writes
        self._max_jobs = max_jobs
        self._stopping = False

    def run(self) -> None:
        while batch := self._take():
            self._run_batch(batch)
            self._hand_back(batch)
        self._database.close()

    def _take(self) -> list[_Task[Any]]:
        """Wait for work; return nothing once told to stop and all is done."""
        batch: list[_Task[Any]] = []
        cost = 0
        while not self._stopping and cost < BATCH_BYTES and len(batch) < self._max_jobs:
            try:
                tasks = self._queue.get(block=not batch)
            except Empty:
                break
            if tasks is None:
                self._stopping = True
                break
            batch.extend(tasks)
            cost += sum(task.cost for task in tasks)
        return batch

    def _run_batch(self, batch: Sequence[_Task[Any]]) -> None:
        try:
            connection = self._connection()
            if not self._run_bare(connection, batch):
                self._run_guarded(connection, batch)
        except (*DATABASE_ERRORS, StorageError) as error:
            # What one of them saw of the others never happened, so all of them fail.
            for task in batch:
                task.error = _storage_error(error)
            with suppress(*DATABASE_ERRORS):
                self._database.close()  # rolls back; the next batch starts afresh

    def _run_bare(self, connection: sqlite3.Connection, batch: Sequence[_Task[Any]]) -> bool:
        """Run jobs without savepoints, which would cost more than most of them.

        False if one of several changes failed: none of them has happened then.
        """
        connection.execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
        for task in _put_together(batch):
            task.run(self._database)
            if self._writes and task.error is not None:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                return len(batch) == 1
        connection.execute("COMMIT")
        return True

    def _run_guarded(self, connection: sqlite3.Connection, batch: Sequence[_Task[Any]]) -> None:
        """Run changes so that one that fails takes back its own effects alone."""
        connection.execute("BEGIN IMMEDIATE")
        for task in batch:
            connection.execute("SAVEPOINT job")
            task.run(self._database)
            if task.error is not None:
                if not connection.in_transaction:
                    raise task.error  # SQLite gave up the whole transaction: the disk is full
                connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
        connection.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        if self._database.is_closed():
            self._database.connect()
            if not self._writes:
                self._database.execute_sql("PRAGMA query_only = 1")
        return self._database.connection()  # type: ignore[no-any-return]


def _put_together(batch: Sequence[_Task[Any]]) -> Sequence[_Task[Any]]:
    """Return tasks that do the same as these, those of one work in one."""
    if len(batch) == 1:
        return batch
    tasks: list[_Task[Any]] = []
    items_of: dict[Work[Any], list[Any]] = {}
    for task in batch:
        if task.together is None:
            tasks.append(task)
            continue
        work, item = task.together
        if work in items_of:
            items_of[work].append(item)
        else:
            items = items_of[work] = [item]
            tasks.append(_Task(partial(work, many=items), 0, task.future))
    return tasks


class Database:
    """The database of one server process.

    All methods are for the event loop that opened it.
    """

    def __init__(self, path: Path, lock: int, loop: asyncio.AbstractEventLoop) -> None:
        self.room = Room(path)
        """For jobs that write."""
        self._lock = lock
        self._loop = loop
        self._database = connect_to(path)
        self._writes: _Queue = SimpleQueue()
        self._reads: _Queue = SimpleQueue()
        self._scans: _Queue = SimpleQueue()
        self._unsent: list[_Task[Any]] = []
        """Writes that are not handed to the writer yet."""
        self._sending: asyncio.Handle | None = None
        """What hands them over soon; `_sending_later` when the patient have waited enough."""
        self._sending_later: asyncio.TimerHandle | None = None
        self._queued_bytes = 0
        self._closed = False
        self._workers = [
            self._worker("writer", self._writes, writes=True, max_jobs=WRITE_BATCH_JOBS),
            self._worker("reader-1", self._reads, writes=False, max_jobs=READ_BATCH_JOBS),
            self._worker("reader-2", self._reads, writes=False, max_jobs=READ_BATCH_JOBS),
            self._worker("scanner-1", self._scans, writes=False, max_jobs=1),
            self._worker("scanner-2", self._scans, writes=False, max_jobs=1),
        ]
        for worker in self._workers:
            worker.start()

    def _worker(self, role: str, queue: _Queue, *, writes: bool, max_jobs: int) -> _Worker:
        return _Worker(
            f"database-{role}",
            self._database,
            queue,
            self._hand_back,
            writes=writes,
            max_jobs=max_jobs,
        )

    def write(self, job: Job[T], cost: int = 0, *, patient: bool = False) -> asyncio.Future[T]:
        """Run a job that changes something; its future completes when that is on disk.

        Jobs run in the order of these calls. `cost` is the size of the job's data in bytes.
        `patient`: it may wait for others up to PATIENT_SECONDS, to share their commit.
        StorageError: disk full, or too much waits for the disk already.
        """
        return self._write(self._task(job, cost), patient=patient)

    def write_together(
        self, work: Work[T], item: T, cost: int = 0, *, patient: bool = False
    ) -> asyncio.Future[None]:
        """Run work on an item as `write` does, but on all items that share a commit in one go.

        It runs where the first of them stands, so before some that were written earlier.
        """
        task = self._task(lambda db: work(db, (item,)), cost)
        task.together = (work, item)
        return self._write(task, patient=patient)

    def _write(self, task: _Task[T], *, patient: bool) -> asyncio.Future[T]:
        self._unsent.append(task)
        if not patient:
            # Not at once: what else is written in this round of the loop goes with it.
            self._sending = self._sending or self._loop.call_soon(self._send)
        elif self._sending_later is None:
            self._sending_later = self._loop.call_later(PATIENT_SECONDS, self._send)
        return task.future

    def _send(self) -> None:
        for handle in (self._sending, self._sending_later):
            if handle is not None:
                handle.cancel()
        self._sending = self._sending_later = None
        if self._unsent:
            self._writes.put(self._unsent)
            self._unsent = []

    def read(self, job: Job[T]) -> asyncio.Future[T]:
        """Run a job that reads a few rows, on one consistent state of the database."""
        return self._submit(self._reads, job)

    def scan(self, job: Job[T]) -> asyncio.Future[T]:
        """Run a job that may read many rows: two at a time, beside the reads."""
        return self._submit(self._scans, job)

    def _submit(self, queue: _Queue, job: Job[T]) -> asyncio.Future[T]:
        task = self._task(job, 0)
        queue.put((task,))
        return task.future

    def _task(self, job: Job[T], cost: int) -> _Task[T]:
        if self._closed:
            raise StorageError("the database is closed: the server is stopping")
        cost += JOB_BYTES
        if self._queued_bytes + cost > MAX_QUEUED_BYTES:
            raise StorageError("the disk is too slow: too many changes wait to be written")
        self._queued_bytes += cost
        return _Task(job, cost, self._loop.create_future())

    def _hand_back(self, batch: Sequence[_Task[Any]]) -> None:
        """Called by the threads."""
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, batch)

    def _settle(self, batch: Sequence[_Task[Any]]) -> None:
        for task in batch:
            self._queued_bytes -= task.cost
            task.settle()

    async def close(self) -> None:
        """Finish what is queued, stop the threads, let other processes have the file."""
        if self._closed:
            return
        self._closed = True
        self._send()
        for queue in (self._writes, self._reads, self._reads, self._scans, self._scans):
            queue.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for worker in self._workers:
            worker.join()
        os.close(self._lock)


def lock_file(path: Path) -> int:
    """Claim a database file for this process; return the descriptor that holds the claim.

    FailedPreconditionError (reason DATABASE_IN_USE): another process has it. OSError.
    """
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FailedPreconditionError(
            f"the database {path} is in use by another server: stop that one, "
            "or give this one a database of its own",
            reason="DATABASE_IN_USE",
        ) from error
    return descriptor


def _storage_error(error: Exception) -> StorageError:
    if isinstance(error, StorageError):
        return error
    cause = error.__context__ if isinstance(error, PeeweeException) else error
    if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return no_room(str(error))
    return StorageError(f"the database cannot be used now: {error}")
