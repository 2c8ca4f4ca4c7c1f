"""Deliveries: what every store promises of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from skybridge_server.models.aftermath import Aftermath
from skybridge_server.models.destinations import Delivery, DeliveryState, Destination
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.journal import Result, StateChange
from skybridge_server.models.names import ExecutionName, new_id
from skybridge_server.repositories.base import Repositories
from tests.contract.test_repositories import NOW, execution, journal, seconds, store

__all__ = ["store"]

S = ExecutionState
HOOK = Destination(url="https://a.test/", secret="whsec_x")


async def ended(store: Repositories, *, at: datetime = NOW) -> tuple[Execution, Delivery]:
    """Add an execution whose end is to be told."""
    added = execution()
    await store.executions.add(added, b"", journal(StateChange(S.QUEUED)))
    done = replace(added, state=S.SUCCEEDED, end_time=at, last_sequence=2)
    delivery = Delivery(new_id(), added.name, HOOK, create_time=at, next_time=at)
    events = journal(Result(done), first=2)
    await store.executions.append(added.name, events, done, aftermath=Aftermath(delivery=delivery))
    return done, delivery


async def test_it_is_stored_with_the_end(store: Repositories) -> None:
    done, delivery = await ended(store)
    assert await store.executions.get(done.name) == done
    assert list(await store.deliveries.of_execution(done.name)) == [delivery]
    assert await store.deliveries.next_time(after=NOW - seconds(1)) == NOW
    assert await store.deliveries.next_time(after=NOW) is None
    assert list(await store.deliveries.due(NOW, 10)) == [delivery]


async def test_the_longest_waiting_are_due_first(store: Repositories) -> None:
    made = {n: (await ended(store, at=NOW + seconds(n)))[1] for n in (3, 1, 2)}
    assert list(await store.deliveries.due(NOW + seconds(2), 10)) == [made[1], made[2]]
    assert list(await store.deliveries.due(NOW + seconds(9), 1)) == [made[1]]
    assert list(await store.deliveries.due(NOW, 10)) == []


async def test_what_became_of_it_is_kept(store: Repositories) -> None:
    done, delivery = await ended(store)
    later = replace(delivery, next_time=NOW + seconds(5), attempts=1, message="no answer")
    await store.deliveries.update(later)
    assert list(await store.deliveries.of_execution(done.name)) == [later]
    assert await store.deliveries.next_time(after=NOW) == NOW + seconds(5)
    told = replace(
        later,
        next_time=None,
        state=DeliveryState.DELIVERED,
        message="",
        told=ExecutionName("other", "e2"),
        end_time=NOW + seconds(6),
    )
    await store.deliveries.update(told)
    assert list(await store.deliveries.of_execution(done.name)) == [told]
    assert await store.deliveries.next_time(after=NOW - seconds(1)) is None
    assert list(await store.deliveries.due(NOW + seconds(9), 10)) == []


async def test_it_goes_with_its_execution(store: Repositories) -> None:
    done, delivery = await ended(store)
    await store.executions.delete(done.name)
    assert list(await store.deliveries.due(NOW, 10)) == []
    while await store.tidy():
        pass
    await store.deliveries.update(delivery)
    assert await store.deliveries.next_time(after=NOW - seconds(1)) is None
