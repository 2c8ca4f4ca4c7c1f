"""Backups: of one moment while others write, whole or not at all, and put back with care."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skybridge_server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    SkybridgeError,
    StorageError,
)
from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.repositories.backup import Backup, Restored, back_up, restore
from skybridge_server.repositories.schema import newest_version
from skybridge_server.repositories.store import SqliteRepositories
from tests.support.executions import unfinished

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "skybridge.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteRepositories]:
    opened = await SqliteRepositories.open(path)
    yield opened
    await opened.close()


def ignore(_: str) -> None:
    """Show no progress."""


def put_back(target: Path, path: Path, sha256: str = "") -> Restored:
    return restore(target, path, sha256=sha256, progress=ignore)


async def add(store: SqliteRepositories, size: int = 10) -> ExecutionName:
    """Store an execution, in two acknowledged steps."""
    name = ExecutionName("default", new_id())
    execution = Execution(name, FunctionName("default", "hello"), "uid", 1, NOW)
    await store.executions.add(execution, b"input", [output(1, size)])
    await store.executions.append(name, [output(2, size)])
    return name


def output(sequence: int, size: int) -> Event:
    return Event(sequence, NOW, Output(OutputStream.STDOUT, 0, b"x" * size))


async def names_in(path: Path) -> set[ExecutionName]:
    store = await SqliteRepositories.open(path)
    found = {execution.name for execution in await unfinished(store)}
    for name in found:
        events = await store.executions.events(name, after=0, limit_bytes=2**20)
        assert [event.sequence for event in events] in ([1], [1, 2])
        assert await store.executions.get_input(name) == b"input"
    await store.close()
    return found


async def test_a_backup_says_what_it_holds(
    store: SqliteRepositories, path: Path, target: Path
) -> None:
    await add(store)
    assert back_up(path, target, ignore) == Backup(
        path=str(target),
        bytes=target.stat().st_size,
        sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
        version=newest_version(),
        functions=0,
        executions=1,
        secrets=0,
    )
    assert target.stat().st_mode & 0o777 == 0o600
    assert [*target.parent.glob("backup*")] == [target], "a single file, and no other"


async def test_a_backup_under_load_holds_all_that_was_acknowledged_before(
    store: SqliteRepositories, path: Path, target: Path
) -> None:
    acknowledged: set[ExecutionName] = set()
    enough, stop = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            acknowledged.add(await add(store, 2000))
            if len(acknowledged) >= 100:
                enough.set()

    writing = [asyncio.create_task(write()) for _ in range(8)]
    await enough.wait()
    before = set(acknowledged)
    made = await asyncio.to_thread(back_up, path, target, ignore)
    stop.set()
    await asyncio.gather(*writing)
    assert len(acknowledged) > len(before), "nobody wrote meanwhile"
    put_back(target, target.with_name("restored.db"), made.sha256)
    restored = await names_in(target.with_name("restored.db"))
    assert before <= restored
    assert len(restored) == made.executions


async def test_the_identity_and_the_mode_of_the_file_survive(
    store: SqliteRepositories, path: Path, target: Path
) -> None:
    identity = await store.server_id()
    await store.close()
    back_up(path, target, ignore)
    put_back(target, path)
    again = await SqliteRepositories.open(path)
    assert await again.server_id() == identity
    await again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_of_before_gives_space_back_once_restored(path: Path, target: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE something (id)")  # made without auto_vacuum
    connection.close()
    await (await SqliteRepositories.open(path)).close()
    back_up(path, target, ignore)
    with sqlite3.connect(target) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()


def test_no_database_is_no_backup(path: Path, target: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="FAAS_DATABASE") as caught:
        back_up(path, target, ignore)
    assert caught.value.reason == "NO_DATABASE"
    assert not target.exists()
    assert not path.exists()


async def test_a_backup_is_never_overwritten(path: Path, target: Path) -> None:
    await _make(path)
    target.write_text("precious")
    with pytest.raises(AlreadyExistsError, match="name another file"):
        back_up(path, target, ignore)
    assert target.read_text() == "precious"


async def test_a_backup_that_fails_leaves_nothing(
    store: SqliteRepositories, path: Path, target: Path
) -> None:
    for _ in range(20):
        await add(store, 5000)

    def cut(what: str) -> None:
        if what == "checking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(path, target, cut)
    assert not [*target.parent.glob("backup*")]
    with pytest.raises(StorageError, match="nowhere"):
        back_up(path, target.parent / "nowhere" / "backup.db", ignore)


async def test_what_was_there_is_kept_beside(path: Path, target: Path) -> None:
    store = await SqliteRepositories.open(path)
    before = await add(store)
    back_up(path, target, ignore)
    after = await add(store)
    await store.close()
    first = put_back(target, path)
    assert await names_in(path) == {before}
    assert first.database.path == str(path)
    assert await names_in(Path(first.replaced)) == {before, after}
    second = put_back(target, path)
    assert {*path.parent.glob("*.db.replaced-*")} == {
        Path(first.replaced),
        Path(second.replaced),
    } | {Path(first.replaced + ".lock")}


async def test_what_a_killed_server_left_in_its_log_is_kept(path: Path, target: Path) -> None:
    store = await SqliteRepositories.open(path)
    back_up(path, target, ignore)
    name = await add(store)
    crashed = path.parent / "crashed.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    await store.close()
    made = put_back(target, crashed)
    assert await names_in(crashed) == set()
    assert await names_in(Path(made.replaced)) == {name}


async def test_a_damaged_database_is_replaced_and_kept(path: Path, target: Path) -> None:
    store = await SqliteRepositories.open(path)
    name = await add(store)
    back_up(path, target, ignore)
    await store.close()
    path.write_bytes(b"damaged" * 1000)
    made = put_back(target, path)
    assert await names_in(path) == {name}
    assert Path(made.replaced).read_bytes() == b"damaged" * 1000


def test_a_backup_makes_a_new_database(tmp_path: Path, target: Path) -> None:
    asyncio.run(_make(tmp_path / "a.db"))
    back_up(tmp_path / "a.db", target, ignore)
    made = put_back(target, tmp_path / "new" / "folder" / "b.db")
    assert made.replaced == ""
    asyncio.run(_make(tmp_path / "new" / "folder" / "b.db"))


async def _make(path: Path) -> None:
    await (await SqliteRepositories.open(path)).close()


async def test_a_server_that_runs_is_not_restored_under(
    store: SqliteRepositories, path: Path, target: Path
) -> None:
    name = await add(store)
    back_up(path, target, ignore)
    with pytest.raises(FailedPreconditionError, match="in use") as caught:
        put_back(target, path)
    assert caught.value.reason == "DATABASE_IN_USE"
    assert [each.name for each in await unfinished(store)] == [name]
    assert not [*path.parent.glob("*.replaced-*")]


def _cut_off(target: Path) -> None:
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])


def _wipe(target: Path) -> None:
    """Wipe the head of the third page, where the first table begins."""
    data = bytearray(target.read_bytes())
    data[2 * 4096 : 2 * 4096 + 8] = bytes(8)
    target.write_bytes(data)


def _other_program(target: Path) -> None:
    target.unlink()
    with sqlite3.connect(target) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()


def _newer(target: Path) -> None:
    with sqlite3.connect(target) as connection:
        connection.execute(
            "INSERT INTO schema_migration (name, applied) VALUES ('0099_later', '2099-01-01')"
        )
    connection.close()


@pytest.mark.parametrize(
    ("harm", "sha256", "reason"),
    [
        (_cut_off, "", "NOT_A_BACKUP"),
        (_wipe, "", "NOT_A_BACKUP"),
        (_wipe, "that of the backup", "BACKUP_CHANGED"),
        (_other_program, "", "NOT_A_BACKUP"),
        (_newer, "", "DATABASE_NEWER"),
        (Path.unlink, "", "NOT_A_BACKUP"),
    ],
)
async def test_what_cannot_be_restored_changes_nothing(
    path: Path, target: Path, harm: object, sha256: str, reason: str
) -> None:
    store = await SqliteRepositories.open(path)
    names = {await add(store) for _ in range(50)}
    made = back_up(path, target, ignore)
    await store.close()
    assert callable(harm)
    harm(target)
    with pytest.raises(SkybridgeError, match=str(target)) as caught:
        put_back(target, path, sha256 and made.sha256)
    assert caught.value.reason == reason
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
    assert await names_in(path) == names


async def test_progress_is_told(path: Path, target: Path) -> None:
    await _make(path)
    told: list[str] = []
    back_up(path, target, told.append)
    assert told[0] == "copying 0%"
    assert told[-1] == "checking"
    told.clear()
    restore(target, path.with_name("other.db"), sha256="", progress=told.append)
    assert told == ["copying 100%", "checking"]
