"""What every store promises of secrets: the suite runs over the one in memory and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skybridge_server.errors import AbortedError, AlreadyExistsError, NotFoundError
from skybridge_server.models.names import SecretName
from skybridge_server.models.paging import PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.models.secrets import MAX_SECRET_BYTES, Secret
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
DB = SecretName("default", "db")
ALL = PageRequest(100)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repositories]:
    repositories: Repositories = FakeRepositories()
    if request.param == "sqlite":
        repositories = await SqliteRepositories.open(tmp_path / "skybridge.db")
    yield repositories
    await repositories.close()


def secret(name: SecretName = DB, size: int = 6, etag: str = "one") -> Secret:
    return Secret(name, size, NOW, NOW, etag)


def request(id_: str = "r") -> Request:
    return Request("CreateSecret", id_, "f", NOW, resource=str(DB))


async def test_gives_back_what_it_was_given(store: Repositories) -> None:
    largest = bytes(range(256)) * (MAX_SECRET_BYTES // 256)
    other = SecretName("red", "db")
    await store.secrets.create(secret(), b"geheim")
    await store.secrets.create(secret(other, len(largest)), largest)
    assert await store.secrets.get(DB) == secret()
    assert await store.secrets.value(DB) == b"geheim"
    assert await store.secrets.value(other) == largest


async def test_a_name_is_taken_once(store: Repositories) -> None:
    await store.secrets.create(secret(), b"first")
    with pytest.raises(AlreadyExistsError) as caught:
        await store.secrets.create(secret(), b"second", request())
    assert caught.value.reason == "SECRET_EXISTS"
    assert await store.secrets.value(DB) == b"first"
    assert await store.requests.find("CreateSecret", "r") is None


async def test_changes_go_by_the_etag(store: Repositories) -> None:
    await store.secrets.create(secret(), b"first")
    changed = replace(secret(), etag="two", value_bytes=3)
    with pytest.raises(AbortedError):
        await store.secrets.update(changed, b"new", expected_etag="other", request=request())
    assert await store.requests.find("CreateSecret", "r") is None
    await store.secrets.update(changed, b"new", expected_etag="one", request=request())
    assert await store.secrets.get(DB) == changed
    assert await store.secrets.value(DB) == b"new"
    assert await store.requests.find("CreateSecret", "r") is not None
    with pytest.raises(AbortedError):
        await store.secrets.delete(DB, expected_etag="one")
    await store.secrets.delete(DB, expected_etag="two")


async def test_what_is_not_there_is_not_found(store: Repositories) -> None:
    for missing in (
        store.secrets.get(DB),
        store.secrets.value(DB),
        store.secrets.update(secret(), b"x", expected_etag="one"),
        store.secrets.delete(DB, expected_etag="one"),
    ):
        with pytest.raises(NotFoundError):
            await missing


async def test_lists_a_namespace_by_name_page_by_page(store: Repositories) -> None:
    for id_ in ("c", "a", "b"):
        await store.secrets.create(secret(SecretName("default", id_)), b"x")
    await store.secrets.create(secret(SecretName("red", "d")), b"x")
    first = await store.secrets.list("default", PageRequest(2))
    assert [each.name.secret for each in first.items] == ["a", "b"]
    rest = await store.secrets.list("default", PageRequest(2, first.next))
    assert ([each.name.secret for each in rest.items], rest.next) == (["c"], None)
    assert (await store.secrets.list("blue", ALL)).items == ()


async def test_marks_tell_values_apart(store: Repositories) -> None:
    await store.secrets.make_key()
    values = (b"geheim", b"geheim", b"other")
    one, same, other = [await store.secrets.mark(value) for value in values]
    assert one == same != other
    assert b"geheim" not in one
