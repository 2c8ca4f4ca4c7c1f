"""Retention in the service: by policy, in batches, and never in the way of others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from skybridge_server.errors import NotFoundError
from skybridge_server.models.functions import Retention
from skybridge_server.models.names import FunctionName
from skybridge_server.services.retention import BATCH, RetentionService
from tests.unit.services.world import HELLO, World, key

EVER = timedelta(days=10_000)
KEEP_ALL = Retention(execution_age=EVER, executions=10**9, revisions=10**9)
OTHER = FunctionName("default", "other")


def retention(world: World, request_age: timedelta = EVER, **most: Any) -> RetentionService:
    return RetentionService(world.repositories, replace(KEEP_ALL, **most), request_age)


async def test_executions_are_kept_by_number_of_each_function(world: World) -> None:
    await world.deployed()
    await world.deployed(OTHER)
    names = [await world.start(HELLO) for _ in range(3)]
    other = await world.start(OTHER)
    for name in (*names, other):
        await world.ended(name)
    await retention(world, executions=2).delete_executions()
    assert {*world.repositories.executions.rows} == {*names[1:], other}


async def test_executions_are_kept_by_their_age(world: World) -> None:
    await world.deployed()
    execution = await world.run()
    await retention(world).delete_executions()
    await world.repositories.executions.get(execution.name)
    await retention(world, execution_age=timedelta(0)).delete_executions()
    with pytest.raises(NotFoundError):
        await world.repositories.executions.get(execution.name)


async def test_revisions_are_kept_by_number(world: World) -> None:
    await world.deployed()
    for _ in range(3):
        await world.deploy()
    await retention(world, revisions=2).delete_revisions()
    assert [name.number for name in world.repositories.revisions.rows] == [3, 4]
    await world.deploy()
    assert (await world.services.functions.get(HELLO)).active_revision == 5


async def test_a_function_may_ask_for_less_but_not_for_more(world: World) -> None:
    await world.deployed(retention=Retention(executions=1, revisions=9))
    for _ in range(3):
        await world.run()
        await world.deploy()
    service = retention(world, executions=2, revisions=2)
    await service.delete_executions()
    await service.delete_revisions()
    assert len(world.repositories.executions.rows) == 1
    assert [name.number for name in world.repositories.revisions.rows] == [3, 4]


async def test_executions_outlive_their_function_as_long_as_others(world: World) -> None:
    await world.deployed(retention=Retention(executions=1))
    for _ in range(3):
        await world.run()
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)
    await retention(world, executions=2).delete_executions()
    assert len(world.repositories.executions.rows) == 2


async def test_the_way_back_leads_over_what_is_gone(world: World) -> None:
    await world.deployed()
    for _ in range(3):
        await world.deploy()
    rollback = world.services.deployments.rollback
    await rollback(HELLO, 1, etag="", key=None)
    await retention(world, revisions=1).delete_revisions()
    await rollback(HELLO, 4, etag="", key=None)
    assert (await rollback(HELLO, 0, etag="", key=None)).active_revision == 1


async def test_requests_are_remembered_for_a_time(world: World) -> None:
    await world.deployed()
    await world.start(key=key())
    await retention(world).forget_requests()
    assert len(world.repositories.requests.rows) == 1
    await retention(world, request_age=timedelta(0)).forget_requests()
    assert not world.repositories.requests.rows


async def test_others_have_the_store_as_long_as_retention(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    batches: list[tuple[float, float]] = []

    async def slow_prune(*_: object, limit: int, **__: object) -> int:
        assert limit == BATCH
        began = loop.time()
        await asyncio.sleep(1 + len(batches))
        batches.append((began, loop.time()))
        return BATCH if len(batches) < 4 else 0

    await world.deployed()
    await world.run()
    monkeypatch.setattr(world.repositories.executions, "prune", slow_prune)
    await retention(world).delete_executions()
    for (began, ended), (next_began, _) in pairwise(batches):
        assert next_began - ended == pytest.approx(ended - began)
