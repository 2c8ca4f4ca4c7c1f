"""Leases: who may write the journal of an execution, see repositories/base.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skybridge_server.errors import LeaseLostError
from skybridge_server.models.executions import Execution, ExecutionState, Lease
from skybridge_server.models.journal import Event, EventBody, Output, OutputStream, StateChange
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
S = ExecutionState


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repositories]:
    repositories: Repositories = FakeRepositories()
    if request.param == "sqlite":
        repositories = await SqliteRepositories.open(tmp_path / "skybridge.db")
    yield repositories
    await repositories.close()


def event(sequence: int, body: EventBody) -> Event:
    return Event(sequence, NOW, body)


def output(sequence: int, offset: int, data: bytes, stream: int = 1) -> Event:
    return event(sequence, Output(OutputStream(stream), offset, data))


async def add(store: Repositories, created: datetime = NOW) -> Execution:
    """Store an execution that waits."""
    name = ExecutionName("default", new_id())
    added = Execution(name, FunctionName("default", "f"), "uid", 1, created, last_sequence=1)
    await store.executions.add(added, b"", [event(1, StateChange(S.QUEUED))])
    return added


async def claim(store: Repositories, read: Execution, owner: str) -> Execution:
    """Take the lease of an execution as it was read, to run it until LATER."""
    lease = Lease(read.lease.epoch + 1, owner, LATER)
    taken = replace(read, state=S.STARTING, lease=lease, last_sequence=2)
    events = [event(2, StateChange(S.STARTING))]
    await store.executions.append(read.name, events, taken, epoch=read.lease.epoch)
    return taken


async def take_over(store: Repositories, owner: str, now: datetime = NOW) -> list[Execution]:
    return [*await store.executions.take_over(owner, now=now, expire_time=now)]


async def test_of_several_claims_one_wins(store: Repositories) -> None:
    read = await add(store)
    claims = [claim(store, read, owner) for owner in "abc"]
    results = await asyncio.gather(*claims, return_exceptions=True)
    (taken,) = [each for each in results if isinstance(each, Execution)]
    assert [type(each) for each in results].count(LeaseLostError) == 2
    assert await store.executions.get(read.name) == taken


async def test_only_the_current_epoch_may_write(store: Repositories) -> None:
    taken = await claim(store, await add(store), "a")
    events = [output(3, 0, b"x")]
    for stale in (0, 2):
        with pytest.raises(LeaseLostError):
            await store.executions.append(taken.name, events, taken, epoch=stale)
    await store.executions.append(taken.name, events, taken, epoch=1)
    assert len(await store.executions.events(taken.name, after=0, limit_bytes=1)) == 3


async def test_what_has_ended_ends_once(store: Repositories) -> None:
    taken = await claim(store, await add(store), "a")
    ended = replace(taken, state=S.SUCCEEDED, lease=Lease(1))
    await store.executions.append(taken.name, [], ended, epoch=1)
    with pytest.raises(LeaseLostError):
        await store.executions.append(taken.name, [], replace(ended, state=S.FAILED), epoch=1)
    assert await store.executions.get(taken.name) == ended


async def test_a_later_process_takes_over_what_its_server_held(store: Repositories) -> None:
    held = await claim(store, await add(store), "a")
    await add(store, NOW + timedelta(seconds=1))  # waits, and nobody has taken it
    events = [output(3, 0, b"ab"), output(4, 0, b"e", stream=2), output(5, 2, b"c")]
    await store.executions.append(held.name, events, epoch=1)

    left = await take_over(store, "a")

    assert left == [
        replace(held, lease=Lease(2, "a", LATER), last_sequence=5, stdout_bytes=3, stderr_bytes=1),
    ]
    with pytest.raises(LeaseLostError):
        await store.executions.append(held.name, [output(6, 3, b"d")], epoch=1)
    await store.executions.append(held.name, [output(6, 3, b"d")], epoch=2)


async def test_leases_of_others_hold_until_they_expire(store: Repositories) -> None:
    held = await claim(store, await add(store), "a")
    assert await take_over(store, "b") == []
    assert await take_over(store, "b", LATER) == []
    after = LATER + timedelta(seconds=1)
    (taken,) = await take_over(store, "b", after)
    assert taken.lease == Lease(2, "b", after)
    assert taken.name == held.name


async def test_what_is_given_back_is_anybodys(store: Repositories) -> None:
    held = await claim(store, await add(store), "a")
    given_back = replace(held, lease=Lease(1))
    await store.executions.append(held.name, [], given_back, epoch=1)
    (taken,) = await take_over(store, "b", LATER)
    assert taken.lease == Lease(2, "b", LATER)


async def test_what_has_ended_is_nobodys(store: Repositories) -> None:
    held = await claim(store, await add(store), "a")
    ended = replace(held, state=S.SUCCEEDED)
    await store.executions.append(held.name, [], ended, epoch=1)
    assert await take_over(store, "a") == []
    assert await store.executions.get(held.name) == ended
