"""Versions of the tables: the numbered files of `migrations/`, applied in order, each once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peewee import SqliteDatabase
from playhouse.migrations import Runner

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.repositories.database import DATABASE_ERRORS

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(path: Path) -> list[str]:
    """Bring a database file, made if absent, to the newest version; return what was applied.

    Any number of processes may do so at once: one works, the others wait for it.
    FailedPreconditionError (reason DATABASE_NEWER): a newer server has used it.
    """
    path.touch(mode=0o600)  # specifications hold secrets
    with _open(path) as database:
        # Only a file that is made now heeds it; a restored backup has it, too.
        database.execute_sql("PRAGMA auto_vacuum = INCREMENTAL")
        return _apply(path, database)


def _apply(path: Path, database: SqliteDatabase) -> list[str]:
    with database.atomic("IMMEDIATE"):
        runner = Runner(database, str(MIGRATIONS))
        _refuse_newer(path, runner)
        return list(runner.up())


def schema_version(path: Path) -> int:
    """Return the number of the last migration that was applied to a file; 0 without any."""
    if not path.exists():
        return 0
    with _open(path) as database:
        return max(
            (m.idx for m in Runner(database, str(MIGRATIONS)).status() if m.applied), default=0
        )


def newest_version() -> int:
    """Return the number of the last migration that this server knows."""
    return max(int(file.name[:4]) for file in MIGRATIONS.glob("[0-9]*.py"))


@contextmanager
def _open(path: Path) -> Iterator[SqliteDatabase]:
    # Foreign keys stay off: a migration that rebuilds a table must not cascade into others.
    database = SqliteDatabase(str(path), autoconnect=False, timeout=60)
    try:
        with database.connection_context():
            yield database
    except DATABASE_ERRORS as error:
        raise StorageError(f"the database {path} cannot be used: {error}") from error


def _refuse_newer(path: Path, runner: Runner) -> None:
    unknown = [m.name for m in runner.status() if m.path is None]
    if unknown:
        raise FailedPreconditionError(
            f"the database {path} was made by a newer server (it has {', '.join(unknown)}): "
            "install that version again, or restore a backup from before the update",
            reason="DATABASE_NEWER",
        )
