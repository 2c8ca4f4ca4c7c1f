"""Dead letters: what every store promises of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.errors import FailedPreconditionError, NotFoundError
from skybridge_server.models.aftermath import Aftermath
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import FunctionState
from skybridge_server.models.journal import Result, StateChange
from skybridge_server.models.names import ExecutionName
from skybridge_server.models.paging import DeadLetterQuery, LabelFilter, PageRequest
from skybridge_server.repositories.base import Repositories
from tests.contract.test_repositories import (
    ALL,
    HELLO,
    NOW,
    execution,
    function,
    journal,
    revision,
    seconds,
    store,
    walk,
)

__all__ = ["store"]

S = ExecutionState
QUERY = DeadLetterQuery("default")


async def die(
    store: Repositories, *, after: float = 1, input_: bytes = b"input", **changes: Any
) -> Execution:
    """Add an execution and end it as a dead letter."""
    added = execution(**changes)
    await store.executions.add(added, input_, journal(StateChange(S.QUEUED)))
    reason = changes.get("reason", FailureReason.EXIT_CODE)
    ended = replace(
        added,
        state=S.FAILED,
        failure=Failure(reason, "it failed"),
        end_time=NOW + seconds(after),
        last_sequence=2,
    )
    events = journal(Result(ended), first=2)
    await store.executions.append(added.name, events, ended, aftermath=Aftermath(dead_letter=True))
    return ended


async def deployed(store: Repositories) -> None:
    made = function(uid="uid")
    await store.functions.create(made)
    active = replace(made, active_revision=1, state=FunctionState.ACTIVE, etag="two")
    await store.revisions.activate_new(active, revision(1), expected_etag="one")


async def listed(store: Repositories, **changes: Any) -> list[ExecutionName]:
    page = await store.dead_letters.list(replace(QUERY, **changes), ALL)
    return [letter.name for letter in page.items]


async def test_it_comes_back_as_it_ended(store: Repositories) -> None:
    dead = await die(store, labels={"a": "b"})
    assert await store.dead_letters.get(dead.name) == DeadLetter(dead)
    page = await store.dead_letters.list(QUERY, ALL)
    assert page.items == (DeadLetter(dead),)


async def test_what_did_not_fail_for_good_is_none(store: Repositories) -> None:
    alive = execution()
    await store.executions.add(alive, b"", journal(StateChange(S.QUEUED)))
    for name in (alive.name, ExecutionName("default", "nobody")):
        with pytest.raises(NotFoundError, match="dead letter"):
            await store.dead_letters.get(name)
    assert await listed(store) == []


async def test_filters(store: Repositories) -> None:
    first = await die(store, after=1, labels={"team": "blue"})
    second = await die(store, after=2, of="other")
    third = await die(store, after=3)
    await die(store, namespace="elsewhere")
    assert await listed(store) == [third.name, second.name, first.name]
    assert await listed(store, descending=False) == [first.name, second.name, third.name]
    assert await listed(store, function="other") == [second.name]
    assert await listed(store, labels=(LabelFilter("team", "blue"),)) == [first.name]
    assert await listed(store, ended_from=NOW + seconds(2)) == [third.name, second.name]
    assert await listed(store, ended_before=NOW + seconds(2)) == [first.name]
    assert await listed(store, reason=FailureReason.LOST) == []
    assert len(await listed(store, reason=FailureReason.EXIT_CODE)) == 3


async def test_pages(store: Repositories) -> None:
    """Also where several ended at the same moment."""
    names = {(await die(store, after=n // 2)).name for n in range(7)}
    pages = await walk(lambda page: store.dead_letters.list(QUERY, page), 2)
    found = [letter.name for page in pages for letter in page]
    assert [len(page) for page in pages] == [2, 2, 2, 1]
    assert set(found) == names
    assert len(found) == 7


async def test_a_redrive_makes_one_execution_however_often_it_is_asked_for(
    store: Repositories,
) -> None:
    await deployed(store)
    dead = await die(store)
    wanted = [execution(not_before=NOW, labels={"n": str(n)}) for n in range(3)]
    made = await asyncio.gather(
        *(
            store.dead_letters.redrive(dead.name, new, journal(StateChange(S.QUEUED)))
            for new in wanted
        )
    )
    assert len(set(made)) == 1
    (new,) = [each for each in wanted if each.name == made[0]]
    assert await store.executions.get(new.name) == new
    assert await store.executions.get_input(new.name) == b"input"
    events = await store.executions.events(new.name, after=0, limit_bytes=1)
    assert list(events) == journal(StateChange(S.QUEUED))
    assert await store.waiting.next_time() == NOW
    for other in wanted:
        if other is not new:
            with pytest.raises(NotFoundError):
                await store.executions.get(other.name)
    letter = await store.dead_letters.get(dead.name)
    assert letter == DeadLetter(dead, new.name, new.create_time)
    assert await listed(store) == []
    assert await listed(store, redriven=True) == [dead.name]


async def test_what_had_no_input_is_redriven_without(store: Repositories) -> None:
    await deployed(store)
    dead = await die(store, input_=b"")
    new = execution()
    await store.dead_letters.redrive(dead.name, new, journal(StateChange(S.QUEUED)))
    assert await store.executions.get_input(new.name) == b""


async def test_a_redrive_that_is_refused_changes_nothing(store: Repositories) -> None:
    dead = await die(store)
    events = journal(StateChange(S.QUEUED))
    with pytest.raises(NotFoundError, match="function"):
        await store.dead_letters.redrive(dead.name, execution(), events)
    await deployed(store)
    stored = await store.functions.get(HELLO)
    disabled = replace(stored, state=FunctionState.DISABLED, etag="three")
    await store.functions.update(disabled, expected_etag=stored.etag)
    with pytest.raises(FailedPreconditionError):
        await store.dead_letters.redrive(dead.name, execution(), events)
    with pytest.raises(NotFoundError, match="dead letter"):
        await store.dead_letters.redrive(ExecutionName("default", "nobody"), execution(), events)
    assert await listed(store) == [dead.name]


async def test_a_purge_deletes_the_oldest_with_their_executions(store: Repositories) -> None:
    dead = [await die(store, after=n) for n in range(5)]
    other = await die(store, of="other")
    query = replace(QUERY, function="hello")
    assert await store.dead_letters.purge(query, 2) == 2
    for gone in dead[:2]:
        with pytest.raises(NotFoundError):
            await store.executions.get(gone.name)
        with pytest.raises(NotFoundError):
            await store.dead_letters.get(gone.name)
    assert await store.dead_letters.purge(query, 10) == 3
    assert await store.dead_letters.purge(query, 10) == 0
    while await store.tidy():
        pass
    assert await listed(store) == [other.name]


async def test_it_goes_with_its_execution(store: Repositories) -> None:
    dead = await die(store)
    await store.executions.delete(dead.name)
    assert await listed(store) == []
    with pytest.raises(NotFoundError):
        await store.dead_letters.get(dead.name)


async def test_only_age_retires_what_nobody_has_dealt_with(store: Repositories) -> None:
    await deployed(store)
    waits, dealt_with = [await die(store, after=n) for n in (1, 2)]
    new = execution(create_time=NOW + seconds(5))
    await store.dead_letters.redrive(dealt_with.name, new, journal(StateChange(S.QUEUED)))
    prune = store.executions.prune
    assert await prune(HELLO, ended_before=NOW, keep=1, limit=10) == 1
    with pytest.raises(NotFoundError):
        await store.executions.get(dealt_with.name)
    assert await listed(store) == [waits.name]
    assert await prune(HELLO, ended_before=NOW + timedelta(hours=1), keep=1, limit=10) == 1
    assert await listed(store) == []
    assert (await store.dead_letters.list(QUERY, PageRequest(1))).next is None
