"""Secrets on disk: what is there, what is not, and what becomes of them without their key."""

from __future__ import annotations

import hashlib
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.models.names import SecretName
from skybridge_server.models.paging import PageRequest
from skybridge_server.models.secrets import Secret
from skybridge_server.repositories.store import SqliteRepositories
from skybridge_server.repositories.vault import KEY_BYTES, Vault

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DB = SecretName("default", "db")
GEHEIM = b"very secret and long enough to be found"


def secret(name: SecretName = DB) -> Secret:
    return Secret(name, len(GEHEIM), NOW, NOW, "one")


def refusal(error: pytest.ExceptionInfo[FailedPreconditionError]) -> str:
    assert error.value.reason == "SECRETS_SEALED"
    return error.value.message


# -- the vault -----------------------------------------------------------------------------------


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "key")
    made.make_key()
    return made


def test_opens_what_it_sealed_for_the_same_name_alone(vault: Vault) -> None:
    sealed = vault.seal(GEHEIM, "a")
    assert vault.open(sealed, "a") == GEHEIM
    assert GEHEIM not in sealed
    assert vault.seal(GEHEIM, "a") != sealed
    for wrong, name in ((sealed, "b"), (sealed[:-1], "a"), (b"", "a"), (bytes(64), "a")):
        with pytest.raises(FailedPreconditionError) as caught:
            vault.open(wrong, name)
        assert "is not the one" in refusal(caught)


def test_the_key_is_for_its_owner_alone_and_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "key"
    vault = Vault(file)
    had = vault.has_key
    vault.make_key()
    assert (had, vault.has_key) == (False, True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == KEY_BYTES
    assert [*tmp_path.iterdir()] == [file]
    sealed = vault.seal(GEHEIM, "a")
    assert Vault(file).open(sealed, "a") == GEHEIM
    assert Vault(file).mark(b"x") == vault.mark(b"x") != hashlib.sha256(b"x").digest()


def test_a_key_that_was_cut_short_is_told(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"short")
    with pytest.raises(FailedPreconditionError) as caught:
        Vault(file).seal(GEHEIM, "a")
    assert "has 5 bytes and not 32" in refusal(caught)


def test_where_no_key_can_be_made_it_is_the_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the key key cannot be made"):
        Vault(tmp_path / "nowhere" / "key").make_key()


def test_a_key_that_cannot_be_read_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FailedPreconditionError) as caught:
        Vault(tmp_path / "folder").seal(GEHEIM, "a")
    assert "the key folder beside the database cannot be read (Is a directory)" in refusal(caught)
    assert str(tmp_path) not in caught.value.message


# -- with the database ---------------------------------------------------------------------------


async def test_a_server_without_secrets_has_no_key(tmp_path: Path) -> None:
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await store.secrets.list("default", PageRequest(1))
    assert not (tmp_path / "skybridge.db-key").exists()
    await store.secrets.create(secret(), GEHEIM)
    assert (tmp_path / "skybridge.db-key").exists()
    await store.close()
    for file in tmp_path.iterdir():
        assert GEHEIM not in file.read_bytes(), file


async def test_without_its_key_a_secret_can_only_be_deleted(tmp_path: Path) -> None:
    key = tmp_path / "skybridge.db-key"
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await store.secrets.create(secret(), GEHEIM)
    await store.close()
    kept = key.read_bytes()
    key.unlink()

    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    assert await store.secrets.get(DB) == secret()
    other = SecretName("default", "other")
    for needs_it in (
        store.secrets.value(DB),
        store.secrets.create(secret(other), b"x"),
        store.secrets.update(secret(), b"x", expected_etag="one"),
        store.secrets.mark(b"x"),
    ):
        with pytest.raises(FailedPreconditionError) as caught:
            await needs_it
        assert "the key skybridge.db-key beside the database is missing" in refusal(caught)
    # No other key has taken its place: it may come back.
    key.write_bytes(kept)
    assert await store.secrets.value(DB) == GEHEIM
    await store.close()
    key.unlink()

    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await store.secrets.delete(DB, expected_etag="one")
    await store.secrets.create(secret(other), GEHEIM)
    assert await store.secrets.value(other) == GEHEIM
    assert key.read_bytes() != kept
    await store.close()


async def test_nothing_is_sealed_with_a_key_that_does_not_open_what_there_is(
    tmp_path: Path,
) -> None:
    """Else the database would have secrets of two keys, and no one key would open both."""
    key = tmp_path / "skybridge.db-key"
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await store.secrets.create(secret(), GEHEIM)
    kept = key.read_bytes()
    key.write_bytes(b"x" * KEY_BYTES)
    other = SecretName("red", "other")
    for needs_it in (
        store.secrets.value(DB),
        store.secrets.create(secret(other), b"x"),
        store.secrets.update(secret(), b"x", expected_etag="one"),
    ):
        with pytest.raises(FailedPreconditionError) as caught:
            await needs_it
        assert "is not the one that secrets were encrypted with" in refusal(caught)
    # The right one is taken as soon as it is back.
    key.write_bytes(kept)
    await store.secrets.create(secret(other), GEHEIM)
    assert [await store.secrets.value(name) for name in (DB, other)] == [GEHEIM] * 2
    await store.close()


async def test_a_key_that_vanishes_under_a_server_is_missed_at_once(tmp_path: Path) -> None:
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await store.secrets.create(secret(), GEHEIM)
    (tmp_path / "skybridge.db-key").unlink()
    with pytest.raises(FailedPreconditionError):
        await store.secrets.create(secret(SecretName("red", "other")), GEHEIM)
    await store.secrets.delete(DB, expected_etag="one")
    await store.secrets.create(secret(), GEHEIM)
    await store.close()
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    assert await store.secrets.value(DB) == GEHEIM
    await store.close()


async def test_a_value_that_was_moved_to_another_name_does_not_open(tmp_path: Path) -> None:
    import sqlite3  # noqa: PLC0415 - as somebody with the file would

    path = tmp_path / "skybridge.db"
    store = await SqliteRepositories.open(path)
    await store.secrets.create(secret(), GEHEIM)
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE secrets SET namespace = 'red'")
    connection.close()
    store = await SqliteRepositories.open(path)
    with pytest.raises(FailedPreconditionError):
        await store.secrets.value(SecretName("red", "db"))
    await store.close()
