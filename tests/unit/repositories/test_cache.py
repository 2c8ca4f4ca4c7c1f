from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from skybridge_server.errors import StorageError
from skybridge_server.models.functions import Function, FunctionSpec
from skybridge_server.models.names import FunctionName
from skybridge_server.repositories import cache as module
from skybridge_server.repositories.cache import FunctionCache

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD = Function(FunctionName("default", "hello"), "uid", FunctionSpec("a:1"), NOW, NOW)


async def kept(cache: FunctionCache, function: Function) -> None:
    """Read a function into the cache."""
    result: asyncio.Future[Function] = asyncio.get_running_loop().create_future()
    result.set_result(function)
    await cache.read(function.name, result)


@pytest.fixture
def cache() -> FunctionCache:
    return FunctionCache()


@pytest.fixture
async def pending() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def test_what_was_read_is_found(cache: FunctionCache) -> None:
    assert cache.find(OLD.name) is None
    await kept(cache, OLD)
    assert cache.find(OLD.name) == OLD


async def test_what_changes_is_not_found(
    cache: FunctionCache, pending: asyncio.Future[None]
) -> None:
    await kept(cache, OLD)
    change = asyncio.create_task(cache.change(OLD.name, pending))
    await asyncio.sleep(0)
    assert cache.find(OLD.name) is None
    # A reader that still sees the old state must not outlive the change.
    await kept(cache, OLD)
    pending.set_result(None)
    await change
    assert cache.find(OLD.name) is None


async def test_a_read_that_a_change_overtook_is_not_kept(
    cache: FunctionCache, pending: asyncio.Future[None]
) -> None:
    answer: asyncio.Future[Function] = asyncio.get_running_loop().create_future()
    read = asyncio.create_task(cache.read(OLD.name, answer))
    await asyncio.sleep(0)
    pending.set_result(None)
    await cache.change(OLD.name, pending)
    answer.set_result(OLD)
    assert await read == OLD
    assert cache.find(OLD.name) is None


async def test_a_change_counts_though_its_caller_left(
    cache: FunctionCache, pending: asyncio.Future[None]
) -> None:
    change = asyncio.create_task(cache.change(OLD.name, pending))
    await asyncio.sleep(0)
    change.cancel()
    await asyncio.gather(change, return_exceptions=True)
    assert not pending.cancelled()
    await kept(cache, OLD)
    pending.set_result(None)
    await asyncio.sleep(0)
    assert cache.find(OLD.name) is None


async def test_a_change_that_fails_says_so(
    cache: FunctionCache, pending: asyncio.Future[None]
) -> None:
    pending.set_exception(StorageError("full"))
    with pytest.raises(StorageError):
        await cache.change(OLD.name, pending)


async def test_it_is_bounded_and_keeps_what_was_used_last(
    cache: FunctionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIZE", 2)
    first, second, third = (replace(OLD, name=FunctionName("default", n)) for n in "abc")
    await kept(cache, first)
    await kept(cache, second)
    assert cache.find(first.name) == first
    await kept(cache, third)
    assert [cache.find(f.name) is not None for f in (first, second, third)] == [True, False, True]
