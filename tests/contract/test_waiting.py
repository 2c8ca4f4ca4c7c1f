"""Executions that wait for their time, and attempts: what every store promises of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from skybridge_server.errors import NotFoundError
from skybridge_server.models.executions import (
    Attempt,
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Lease,
    Queued,
    Timings,
    Usage,
)
from skybridge_server.models.journal import OutputStream, StateChange
from skybridge_server.models.names import ExecutionName, RevisionName
from skybridge_server.repositories.base import Repositories
from tests.contract.test_repositories import NOW, add, execution, journal, seconds, stdout, store

__all__ = ["store"]

S = ExecutionState
HOUR = timedelta(hours=1)
QUEUED = StateChange(S.QUEUED)


async def wait_until(store: Repositories, time: datetime, **changes: object) -> Execution:
    return await add(store, QUEUED, not_before=time, due_time=time, background=True, **changes)


def attempt(number: int = 1, last_sequence: int = 3) -> Attempt:
    return Attempt(
        number=number,
        failure=Failure(FailureReason.SIGNAL, "é went wrong", 9),
        exit_code=137,
        stdout_bytes=5,
        stderr_bytes=6,
        last_sequence=last_sequence,
        cold_start=True,
        timings=Timings(seconds(1), seconds(2), seconds(3), seconds(6)),
        usage=Usage(seconds(1.5), 2**33, oom_killed=True),
        start_time=NOW,
        end_time=NOW + seconds(3),
    )


async def test_what_waits_comes_back_as_it_was(store: Repositories) -> None:
    added = await wait_until(store, NOW + HOUR)
    assert await store.executions.get(added.name) == added
    assert await store.waiting.next_time() == NOW + HOUR
    assert not await store.waiting.queue_due(NOW, 10, 7)
    due = await store.waiting.queue_due(NOW + HOUR, 10, 7)
    assert list(due) == [Queued(added.function_uid, revision_of(added), 1, 7)]
    assert await store.waiting.next_time() is None
    assert not await store.waiting.queue_due(NOW + HOUR, 10, 8)
    queued = replace(added, position=7)
    assert await store.executions.get(added.name) == queued
    taken = replace(queued, lease=Lease(1, "me", NOW))
    assert await store.waiting.claim_first(added.function_uid, 10, "me", NOW) == [taken]
    assert await store.executions.get(added.name) == taken
    assert not await store.waiting.claim_first(added.function_uid, 10, "me", NOW)


async def test_the_longest_waiting_are_queued_first(store: Repositories) -> None:
    hours = [3, 1, 5, 2, 4]
    added = {n: await wait_until(store, NOW + n * HOUR) for n in hours}
    uid = added[1].function_uid
    assert [each.last for each in await store.waiting.queue_due(NOW + 4 * HOUR, 2, 10)] == [10, 11]
    assert await store.waiting.next_time() == NOW + 3 * HOUR
    await store.waiting.queue_due(NOW + 4 * HOUR, 10, 20)
    assert await store.waiting.next_time() == NOW + 5 * HOUR
    claimed = await store.waiting.claim_first(uid, 10, "me", NOW)
    assert [each.name for each in claimed] == [added[n].name for n in (1, 2, 3, 4)]


async def queue(store: Repositories, position: int, **changes: object) -> Execution:
    return await add(store, QUEUED, position=position, background=True, **changes)


async def test_the_first_in_the_queue_are_claimed_once(store: Repositories) -> None:
    """Positions count, not times: a clock may be set back."""
    times = {4: NOW, 1: NOW + HOUR, 3: NOW + 2 * HOUR, 2: NOW + 3 * HOUR}
    added = {n: await queue(store, n, create_time=time) for n, time in times.items()}
    await queue(store, 0, function_uid="other")
    uid = added[1].function_uid
    claims = [store.waiting.claim_first(uid, 2, owner, NOW) for owner in ("a", "b", "c")]
    claimed = [[each.name for each in await claim] for claim in claims]
    assert claimed == [[added[1].name, added[2].name], [added[3].name, added[4].name], []]
    holders = [(await store.executions.get(added[n].name)).lease.owner for n in (1, 2, 3, 4)]
    assert holders == ["a", "a", "b", "b"]


async def test_what_waits_is_counted_by_function_and_revision(store: Repositories) -> None:
    one = await queue(store, 3)
    for position in (9, 5):
        await queue(store, position, revision=2)
    await queue(store, 4, lease=Lease(1, "somebody", NOW))
    await wait_until(store, NOW)
    found = {each.revision.number: each for each in await store.waiting.queued()}
    assert found[1] == Queued(one.function_uid, revision_of(one), 1, 3)
    assert (found[2].count, found[2].last) == (2, 9)


async def test_late_ones_are_claimed_whatever_comes_before(store: Repositories) -> None:
    added = [await queue(store, n, revision=1 + n % 2) for n in range(6)]
    place = Queued(added[1].function_uid, revision_of(added[1]), 0, 3)
    late = await store.waiting.claim_late(place, 1, "me", NOW)
    late = [*late, *await store.waiting.claim_late(place, 10, "me", NOW)]
    assert [each.name for each in late] == [added[1].name, added[3].name]


async def test_one_is_claimed_before_its_time_or_turn_once(store: Repositories) -> None:
    delayed = await wait_until(store, NOW + HOUR)
    queued = [await queue(store, n) for n in range(3)]
    held = await add(store, QUEUED, lease=Lease(1, "somebody", NOW), position=3)
    for each in (delayed, queued[1]):
        taken = await store.waiting.claim(each.name, "me", NOW)
        assert taken == replace(each, lease=Lease(1, "me", NOW))
        assert await store.waiting.claim(each.name, "me", NOW) is None
    for name in (held.name, ExecutionName("default", "nobody")):
        assert await store.waiting.claim(name, "me", NOW) is None


async def test_those_of_a_function_are_claimed_whatever_they_wait_for(store: Repositories) -> None:
    mine = [await wait_until(store, NOW + n * HOUR, function_uid="mine") for n in (1, 2)]
    mine += [await queue(store, n, function_uid="mine") for n in range(3)]
    await wait_until(store, NOW, function_uid="other")
    await queue(store, 9, function_uid="other")
    claimed: list[ExecutionName] = []
    while some := await store.waiting.claim_any("mine", 2, "me", NOW):
        claimed += [each.name for each in some]
        assert len(some) <= 2
    assert set(claimed) == {each.name for each in mine}


async def test_what_was_claimed_goes_back_to_its_place(store: Repositories) -> None:
    first, second = [await queue(store, n) for n in (1, 2)]
    delayed = await wait_until(store, NOW + HOUR)
    interactive = await add(store, QUEUED, position=3, interactive=True, lease=Lease(1, "me", NOW))
    uid = first.function_uid
    await store.waiting.claim_first(uid, 1, "me", NOW)
    await store.waiting.claim(delayed.name, "me", NOW)
    left = await store.executions.take_over("me", now=NOW, expire_time=NOW)
    assert [each.name for each in left] == [interactive.name]
    assert left[0].lease.epoch == 2
    again = await store.waiting.claim_first(uid, 10, "me", NOW)
    assert [each.name for each in again] == [delayed.name, first.name, second.name]
    assert [each.lease.epoch for each in again] == [3, 3, 1]


async def test_what_others_have_claimed_stays_theirs_until_it_expires(store: Repositories) -> None:
    added = await queue(store, 1)
    await store.waiting.claim_first(added.function_uid, 1, "a", NOW + HOUR)
    for now, found in ((NOW, []), (NOW + 2 * HOUR, [added.name])):
        assert not await store.executions.take_over("b", now=now, expire_time=now)
        claimed = await store.waiting.claim_first(added.function_uid, 1, "b", now)
        assert [each.name for each in claimed] == found


def revision_of(execution: Execution) -> RevisionName:
    return RevisionName(execution.function, execution.revision)


async def test_an_attempt_is_recorded_with_its_end(store: Repositories) -> None:
    added = await add(store, QUEUED, StateChange(S.RUNNING), stdout(0, b"first"), last_sequence=3)
    waiting = replace(added, attempt=2, not_before=NOW + HOUR, last_sequence=4)
    events = journal(StateChange(S.QUEUED, 2), first=4)
    await store.executions.append(added.name, events, waiting, attempt=attempt())
    assert await store.executions.get(added.name) == waiting
    assert list(await store.executions.attempts(added.name)) == [attempt()]
    assert await store.waiting.next_time() == NOW + HOUR
    stored = await store.executions.events(added.name, after=3, limit_bytes=1000)
    assert list(stored) == events

    more = journal(StateChange(S.RUNNING, 2), stdout(0, b"second"), first=5)
    running = replace(waiting, not_before=None, state=S.RUNNING)
    await store.executions.append(added.name, more, running)
    for read in (store.executions.output, store.executions.output_tail):
        assert await read(added.name, OutputStream.STDOUT, 100) == b"second"
        assert await read(added.name, OutputStream.STDERR, 100) == b""
    again = replace(running, state=S.QUEUED, attempt=3, not_before=NOW)
    events = journal(StateChange(S.QUEUED, 3), first=7)
    await store.executions.append(added.name, events, again, attempt=attempt(2, 6))
    assert [each.number for each in await store.executions.attempts(added.name)] == [1, 2]
    assert await store.executions.output(added.name, OutputStream.STDOUT, 100) == b""


async def test_what_a_lost_attempt_wrote_is_counted_from_its_start(store: Repositories) -> None:
    added = await add(store, QUEUED, StateChange(S.RUNNING), stdout(0, b"first words"))
    waiting = replace(added, attempt=2, not_before=NOW)
    events = journal(StateChange(S.QUEUED, 2), first=4)
    await store.executions.append(added.name, events, waiting, attempt=attempt())
    events = journal(StateChange(S.RUNNING, 2), stdout(0, b"again"), first=5)
    running = replace(waiting, not_before=None, state=S.RUNNING, lease=Lease(1, "me", NOW))
    await store.executions.append(added.name, events, running)
    (left,) = await store.executions.take_over("me", now=NOW, expire_time=NOW)
    assert (left.last_sequence, left.stdout_bytes) == (6, len(b"again"))


async def test_attempts_of_what_has_none(store: Repositories) -> None:
    added = await add(store, QUEUED)
    assert list(await store.executions.attempts(added.name)) == []
    with pytest.raises(NotFoundError):
        await store.executions.attempts(ExecutionName("default", "nobody"))


async def test_attempts_go_with_their_execution(store: Repositories) -> None:
    added = execution(state=S.RUNNING)
    await store.executions.add(added, b"", journal(QUEUED))
    waiting = replace(added, state=S.QUEUED, attempt=2, not_before=NOW)
    events = journal(StateChange(S.QUEUED, 2), first=2)
    await store.executions.append(added.name, events, waiting, attempt=attempt())
    ended = replace(waiting, state=S.CANCELLED, not_before=None, end_time=NOW)
    await store.executions.append(added.name, [], ended)
    await store.executions.delete(added.name)
    while await store.tidy():
        pass
    with pytest.raises(NotFoundError):
        await store.executions.attempts(added.name)
