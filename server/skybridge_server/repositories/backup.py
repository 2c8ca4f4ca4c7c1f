"""Backups of a database file: taken while a server works, checked, and put in place again.

A backup is a database of its own, without free pages and without a write-ahead log beside it. It is
written under another name and gets its own once it is whole, checked and on disk.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from skybridge_server.errors import AlreadyExistsError, FailedPreconditionError, StorageError
from skybridge_server.repositories.database import lock_file
from skybridge_server.repositories.schema import newest_version

CHUNK_BYTES = 1024 * 1024
POLL_SECONDS = 0.1

Progress = Callable[[str], None]
"""Told again and again what is being done, such as `copying 42%`."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup, or what it was restored to."""

    path: str
    bytes: int
    sha256: str
    """Of the file."""
    version: int
    """Number of the last migration; an older server refuses it."""
    functions: int
    executions: int
    secrets: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A database that was restored."""

    database: Backup
    replaced: str
    """The file that was there before, if there was one."""


def back_up(database: Path, target: Path, progress: Progress) -> Backup:
    """Copy a database as it is at this moment; the server that uses it goes on.

    FailedPreconditionError (reason NO_DATABASE). AlreadyExistsError: `target` is never
    overwritten. StorageError: no room, or the database is damaged.
    """
    if not database.exists():
        raise FailedPreconditionError(
            f"there is no database {database}: set FAAS_DATABASE to that of your server",
            reason="NO_DATABASE",
        )
    if target.exists():
        raise AlreadyExistsError(f"{target} exists already: name another file, or remove that one")
    with _readable(f"{database} cannot be backed up to {target}"), _beside(target) as partial:
        _copy(database, partial, progress)
        progress("checking")
        backup = _examine(partial, target, "quick_check")
        to_disk(partial)
        partial.rename(target)
        to_disk(target.parent)
    return backup


def restore(backup: Path, database: Path, *, sha256: str, progress: Progress) -> Restored:
    """Put a backup in place of a database that no server uses; what was there is kept beside it.

    `sha256`: that of the backup, or '' when unknown. FailedPreconditionError: a server runs
    (reason DATABASE_IN_USE), the file is no backup (NOT_A_BACKUP), was changed (BACKUP_CHANGED),
    or is that of a newer server (DATABASE_NEWER). StorageError: no room. Nothing is changed then.
    """
    if not backup.is_file():
        raise FailedPreconditionError(f"there is no file {backup}", reason="NOT_A_BACKUP")
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_file(database)
    try:
        with _readable(f"{backup} cannot be restored"), _beside(database) as partial:
            _check_sum(backup, _transfer(backup, partial, progress), sha256)
            progress("checking")
            found = _examine(partial, backup, "integrity_check")
            _refuse_newer(backup, found.version)
            to_disk(partial)
            replaced = _set_aside(database)
            partial.rename(database)
            to_disk(database.parent)
    finally:
        os.close(lock)
    return Restored(replace(found, path=str(database)), str(replaced or ""))


# -- steps --------------------------------------------------------------------------------------


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Yield an empty file for this user alone; it is removed unless it gets the target's name."""
    descriptor, name = tempfile.mkstemp(
        prefix=f"{target.name}.", suffix=".partial", dir=target.parent
    )
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def _readable(subject: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{subject}: {error}") from error


def _copy(database: Path, target: Path, progress: Progress) -> None:
    """Copy one consistent state of a database that others may write to meanwhile."""
    with closing(_connect(database, "mode=rw", check_same_thread=False)) as connection:
        used = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
        expected = used * _pragma(connection, "page_size")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # that of the copy
        failures: list[sqlite3.Error] = []

        def copy() -> None:
            try:
                connection.execute("VACUUM INTO ?", (str(target),))
            except sqlite3.Error as error:
                failures.append(error)

        thread = threading.Thread(target=copy)
        thread.start()
        try:
            while thread.is_alive():
                progress(f"copying {min(target.stat().st_size / expected, 1):.0%}")
                thread.join(POLL_SECONDS)
        finally:
            if thread.is_alive():  # this was left early, such as by Ctrl-C
                connection.interrupt()
            thread.join()
    if failures:
        raise failures[0]


def _transfer(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file; return its SHA-256."""
    digest, size, done = hashlib.sha256(), source.stat().st_size, 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(f"copying {done / size:.0%}")
    return digest.hexdigest()


def _check_sum(backup: Path, found: str, expected: str) -> None:
    if expected and found != expected.strip().lower():
        raise FailedPreconditionError(
            f"{backup} has the SHA-256 {found}, not {expected}: it was changed or cut off",
            reason="BACKUP_CHANGED",
        )


def _examine(path: Path, name: Path, check: str) -> Backup:
    """Return what a file holds that nobody else uses; refuse what is damaged or not ours."""
    try:
        with closing(_connect(path, "immutable=1")) as connection:
            _check_whole(connection, check)
            (version,) = connection.execute(
                "SELECT max(CAST(substr(name, 1, 4) AS INTEGER)) FROM schema_migration"
            ).fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            counts = [
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("functions", "executions", "secrets")
                if table != "secrets" or table in tables  # which older servers do not have
            ]
    except sqlite3.DatabaseError as error:
        raise FailedPreconditionError(
            f"{name} is damaged, or no backup of a Skybridge server: {error}",
            reason="NOT_A_BACKUP",
        ) from error
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    functions, executions, *secrets = counts
    size = path.stat().st_size
    return Backup(str(name), size, sha256, version, functions, executions, sum(secrets))


def _check_whole(connection: sqlite3.Connection, check: str) -> None:
    (verdict,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _refuse_newer(backup: Path, version: int) -> None:
    if version > newest_version():
        raise FailedPreconditionError(
            f"{backup} was made by a newer server (version {version} of the tables, this one has "
            f"{newest_version()}): restore it with that one",
            reason="DATABASE_NEWER",
        )


def _set_aside(database: Path) -> Path | None:
    """Rename a database, and its log if it still has one; return its new name."""
    if not database.exists():
        return None
    # Whoever is the last to close it puts what is in the log into the file; not if it is damaged.
    with suppress(sqlite3.Error), closing(_connect(database, "mode=rw")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = database.with_name(f"{database.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            Path(f"{database}{suffix}").rename(f"{kept}{suffix}")
    return kept


def _connect(path: Path, mode: str, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """Open a file that must exist."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=10,
        isolation_level=None,
        check_same_thread=check_same_thread,
    )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
