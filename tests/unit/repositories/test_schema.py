from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from peewee import SqliteDatabase
from playhouse.schema_diff import diff_models

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.repositories.schema import (
    MIGRATIONS,
    migrate,
    newest_version,
    schema_version,
)
from skybridge_server.repositories.store import SqliteRepositories
from skybridge_server.repositories.tables import TABLES
from tests.support.waiting import PATIENCE

EVERY_MIGRATION = sorted(file.stem for file in MIGRATIONS.glob("[0-9]*.py"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "skybridge.db"


def test_migrations_make_what_the_models_say(path: Path) -> None:
    migrate(path)
    database = SqliteDatabase(str(path))
    with database.connection_context():
        assert not diff_models(database, TABLES)
        for table in TABLES:
            keys = {field.name for field in table._meta.get_primary_keys()}
            columns = {c.name: c for c in database.get_columns(table._meta.table_name)}
            for field in table._meta.sorted_fields:
                column = columns[field.column_name]
                assert column.null == field.null, field
                assert column.primary_key == (field.name in keys), field


def test_partial_indexes_hold_what_the_models_say(path: Path) -> None:
    """schema_diff compares these by name only."""
    migrate(path)
    migrated, modelled = sqlite3.connect(path), sqlite3.connect(":memory:")
    database = SqliteDatabase(":memory:")
    with database.connection_context(), database.bind_ctx(TABLES):
        database.create_tables(TABLES)
        database.connection().backup(modelled)

    def partial(connection: sqlite3.Connection) -> dict[str, str]:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%WHERE%'"
        )
        return {name: sql.replace('"', "").replace("IF NOT EXISTS ", "") for name, sql in rows}

    assert partial(migrated) == partial(modelled)
    assert len(partial(migrated)) == 6
    migrated.close()
    modelled.close()


def test_versions(path: Path) -> None:
    assert schema_version(path) == 0
    assert not path.exists()
    assert migrate(path) == EVERY_MIGRATION
    assert schema_version(path) == newest_version() == int(EVERY_MIGRATION[-1][:4])
    assert migrate(path) == []


def test_only_the_owner_may_read(path: Path) -> None:
    migrate(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_at_once_all_succeed(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from skybridge_server.repositories.schema import *;"
        "sys.stdin.read(); print(migrate(Path(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # go
        process.stdin = None
    printed = [process.communicate(timeout=PATIENCE)[0].strip() for process in processes]
    assert sorted(printed) == [str(EVERY_MIGRATION), "[]", "[]", "[]"]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]


async def test_a_newer_database_is_refused(path: Path) -> None:
    migrate(path)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO schema_migration (name, applied) VALUES ('0099_later', '2099-01-01')"
        )
    connection.close()
    with pytest.raises(
        FailedPreconditionError, match=r"0099_later.*install that version"
    ) as caught:
        await SqliteRepositories.open(path)
    assert caught.value.reason == "DATABASE_NEWER"
    assert schema_version(path) == 99
    # The refusal leaves no claim on the file behind.
    with pytest.raises(FailedPreconditionError, match="0099_later"):
        await SqliteRepositories.open(path)


async def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"something else, long enough to have a header" * 10)
    with pytest.raises(StorageError, match="not a database"):
        await SqliteRepositories.open(path)
    assert path.read_bytes().startswith(b"something else")


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be opened"):
        await SqliteRepositories.open(tmp_path / "file" / "skybridge.db")


async def test_identity_and_content_survive_a_restart(path: Path) -> None:
    first = await SqliteRepositories.open(path)
    identity = await first.server_id()
    await first.close()
    second = await SqliteRepositories.open(path)
    assert await second.server_id() == identity
    await second.close()


async def test_a_second_server_is_refused(path: Path) -> None:
    first = await SqliteRepositories.open(path)
    with pytest.raises(FailedPreconditionError, match="in use by another server") as caught:
        await SqliteRepositories.open(path)
    assert caught.value.reason == "DATABASE_IN_USE"
    await first.close()
    await (await SqliteRepositories.open(path)).close()
