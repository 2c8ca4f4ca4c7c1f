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
    Timings,
    Usage,
)
from skybridge_server.models.journal import OutputStream, StateChange
from skybridge_server.models.names import ExecutionName
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
    assert await store.waiting.claim_due(NOW + HOUR, 10) == [added]
    assert await store.executions.get(added.name) == replace(added, not_before=None)
    assert await store.waiting.next_time() is None
    assert list(await store.waiting.claim_due(NOW + HOUR, 10)) == []


async def test_the_longest_waiting_are_claimed_first(store: Repositories) -> None:
    hours = [3, 1, 5, 2, 4]
    added = {n: await wait_until(store, NOW + n * HOUR) for n in hours}
    assert await store.waiting.claim_due(NOW + 4 * HOUR, 2) == [added[1], added[2]]
    assert await store.waiting.next_time() == NOW + 3 * HOUR
    assert await store.waiting.claim_due(NOW + 4 * HOUR, 10) == [added[3], added[4]]
    assert await store.waiting.next_time() == NOW + 5 * HOUR


async def test_one_is_claimed_before_its_time_once(store: Repositories) -> None:
    added = await wait_until(store, NOW + HOUR)
    other = await add(store, QUEUED)
    assert await store.waiting.claim(added.name) == added
    assert await store.waiting.claim(added.name) is None
    assert await store.waiting.claim(other.name) is None
    assert await store.waiting.claim(ExecutionName("default", "nobody")) is None


async def test_those_of_a_function(store: Repositories) -> None:
    mine = [await wait_until(store, NOW + n * HOUR, function_uid="mine") for n in (1, 2, 3)]
    await wait_until(store, NOW, function_uid="other")
    await add(store, QUEUED, function_uid="mine")
    found = await store.waiting.of_function("mine", 10)
    assert set(found) == {each.name for each in mine}
    assert len(await store.waiting.of_function("mine", 2)) == 2


async def test_a_start_lets_go_on_what_is_claimed_alone(store: Repositories) -> None:
    waits = await wait_until(store, NOW + HOUR)
    claimed = await wait_until(store, NOW)
    await store.waiting.claim(claimed.name)

    async def left() -> list[ExecutionName]:
        return [e.name for e in await store.executions.take_over("me", now=NOW, expire_time=NOW)]

    assert await left() == [claimed.name]
    await store.waiting.claim(waits.name)
    assert await left() == [waits.name, claimed.name]


async def test_all_but_the_oldest_can_be_set_aside(store: Repositories) -> None:
    times = [NOW + n * HOUR for n in range(4)]
    ready = [await add(store, QUEUED, create_time=time) for time in reversed(times)][::-1]
    interactive = await add(store, QUEUED, create_time=NOW + 5 * HOUR, interactive=True)
    running = await add(store, QUEUED, StateChange(S.RUNNING), state=S.RUNNING, create_time=NOW)
    await store.waiting.set_aside(but=2)
    assert await store.waiting.next_time() == times[2]
    left = await store.executions.take_over("me", now=NOW, expire_time=NOW)
    kept = {ready[0].name, ready[1].name, interactive.name, running.name}
    assert {each.name for each in left} == kept
    claimed = await store.waiting.claim_due(NOW + 6 * HOUR, 10)
    assert [each.name for each in claimed] == [each.name for each in ready[2:]]


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

    await store.waiting.claim(added.name)
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
    await store.waiting.claim(added.name)
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
    await store.waiting.claim(added.name)
    ended = replace(waiting, state=S.CANCELLED, not_before=None, end_time=NOW)
    await store.executions.append(added.name, [], ended)
    await store.executions.delete(added.name)
    while await store.tidy():
        pass
    with pytest.raises(NotFoundError):
        await store.executions.attempts(added.name)
