"""What every store promises of tokens: the suite runs over the one in memory and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from skybridge_server.errors import AlreadyExistsError, NotFoundError
from skybridge_server.models.tokens import Role, Token, TokenName
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FULL = Token(
    TokenName("ci"),
    Role.DEVELOPER,
    ("blue", "red"),
    "what it is for",
    create_time=NOW,
    expire_time=NOW.replace(year=2027),
    secret_hash=bytes(range(32)),
)
BARE = Token(TokenName("web"), Role.INVOKER, create_time=NOW, secret_hash=b"\0\xff" * 16)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repositories]:
    repositories: Repositories = FakeRepositories()
    if request.param == "sqlite":
        repositories = await SqliteRepositories.open(tmp_path / "skybridge.db")
    yield repositories
    await repositories.close()


async def test_gives_back_what_it_was_given(store: Repositories) -> None:
    assert [*await store.tokens.all()] == []
    await store.tokens.create(FULL)
    await store.tokens.create(BARE)
    found = {token.name: token for token in await store.tokens.all()}
    assert found == {FULL.name: FULL, BARE.name: BARE}


async def test_a_name_is_taken_once(store: Repositories) -> None:
    await store.tokens.create(FULL)
    with pytest.raises(AlreadyExistsError) as caught:
        await store.tokens.create(replace(BARE, name=FULL.name))
    assert caught.value.reason == "TOKEN_EXISTS"
    assert [*await store.tokens.all()] == [FULL]


async def test_what_is_deleted_is_gone(store: Repositories) -> None:
    await store.tokens.create(FULL)
    await store.tokens.create(BARE)
    await store.tokens.delete(FULL.name)
    assert [*await store.tokens.all()] == [BARE]
    with pytest.raises(NotFoundError):
        await store.tokens.delete(FULL.name)
    await store.tokens.create(FULL)
    assert len(await store.tokens.all()) == 2


async def test_they_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "skybridge.db"
    first = await SqliteRepositories.open(path)
    await first.tokens.create(FULL)
    await first.close()
    second = await SqliteRepositories.open(path)
    assert [*await second.tokens.all()] == [FULL]
    await second.close()
