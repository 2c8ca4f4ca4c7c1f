"""Destinations: who is told of an end, how often it is tried, and that circles end."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from skybridge_server.models.destinations import (
    Delivery,
    DeliveryState,
    Destination,
    Destinations,
)
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services import deliveries
from skybridge_server.services.deliveries import CAUSE_LABEL, MAX_AGE, MAX_DEPTH
from skybridge_server.services.webhooks import PostError
from tests.fakes.runtime import FakeProcess, says, sleep
from tests.unit.services.test_retries import THRICE, fails, run_all
from tests.unit.services.world import EPOCH, HELLO, World, sample, settle, world_of

S = ExecutionState
NEXT = FunctionName("default", "next")


async def echo(process: FakeProcess) -> int:
    """Write what came in; the function `hello` writes `in`."""
    await process.write(await process.read() or b"in")
    return 0


def calls(name: str) -> Destinations:
    return Destinations(on_success=Destination(function=name), on_failure=Destination(name))


async def delivery_of(world: World, name: ExecutionName) -> Delivery:
    (found,) = await world.repositories.deliveries.of_execution(name)
    return found


async def deliver(world: World) -> datetime | None:
    """Try all that are due, to the end of it; return when others are."""
    service = world.services.deliveries
    next_time = await service.run_due()
    while service._trying:
        await asyncio.wait(service._trying.values())
        next_time = await service.run_due()
    return next_time


async def run_and_tell(world: World, function: FunctionName = HELLO) -> tuple[Any, Delivery]:
    """Run a function, and return what was told of its end."""
    name = await world.start(function)
    await world.ended(name)
    await deliver(world)
    delivery = await delivery_of(world, name)
    told = b""
    if delivery.told is not None:
        await world.ended(delivery.told)
        told = await world.repositories.executions.get_input(delivery.told)
    return json.loads(told or b"null"), delivery


# -- functions ------------------------------------------------------------------------------------


async def test_a_function_is_told_of_success(world: World) -> None:
    await world.deployed(NEXT, program=echo)
    await world.deployed(destinations=calls("next"))
    told, delivery = await run_and_tell(world)
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 1)
    assert (told["type"], told["data"]["output"]) == ("execution.succeeded", "in")
    assert told["data"]["state"] == "SUCCEEDED"
    assert delivery.told is not None
    made = await world.repositories.executions.get(delivery.told)
    assert made.function == NEXT
    assert made.labels[CAUSE_LABEL] == delivery.execution.execution
    assert await deliver(world) is None


async def test_a_function_is_told_of_failure_for_good_once(world: World) -> None:
    await world.deployed(NEXT, program=fails(9))
    await world.deployed(destinations=calls(str(NEXT)), retry_policy=THRICE)
    name = await world.start()
    await world.idle()
    assert (
        await world.repositories.deliveries.next_time(after=EPOCH) is None
    )  # it may still succeed
    await run_all(world, name)
    await deliver(world)
    delivery = await delivery_of(world, name)
    assert delivery.told is not None
    told = json.loads(await world.repositories.executions.get_input(delivery.told))
    assert told["type"] == "execution.failed"
    assert (told["data"]["reason"], told["data"]["attempt"]) == ("EXIT_CODE", 3)


async def test_output_that_is_no_text_is_told_in_base64(world: World) -> None:
    await world.deployed(NEXT, program=says(b"\xff"))
    await world.deployed(destinations=calls("next"))
    told, _ = await run_and_tell(world)
    assert told["data"]["output_is_base64"]
    assert base64.b64decode(told["data"]["output"]) == b"\xff"


async def test_nobody_is_told(world: World) -> None:
    await world.deployed(program=says(), destinations=calls("next"))
    await world.execute()  # somebody waited
    world.runtime.containers.program = sleep
    name = await world.start()
    await world.services.executions.cancel(name)  # somebody wanted it
    await world.ended(name)
    assert await world.repositories.deliveries.next_time(after=EPOCH) is None


async def test_it_is_tried_again_until_the_function_is_there(world: World) -> None:
    await world.deployed(program=says(), destinations=calls("next"))
    told, delivery = await run_and_tell(world)
    assert told is None
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)
    assert "does not exist" in delivery.message
    await world.deployed(NEXT)
    world.clock.ahead += timedelta(seconds=1)
    await deliver(world)
    assert (await delivery_of(world, delivery.execution)).state is DeliveryState.DELIVERED


async def test_it_is_given_up_in_the_end(world: World) -> None:
    await world.deployed(program=says(), destinations=calls("next"))
    _, delivery = await run_and_tell(world)
    old = replace(delivery, create_time=world.clock.now() - MAX_AGE, next_time=world.clock.now())
    await world.repositories.deliveries.update(old)
    assert await deliver(world) is None
    given_up = await delivery_of(world, delivery.execution)
    assert given_up.state is DeliveryState.FAILED
    assert "does not exist" in given_up.message
    assert given_up.end_time == world.clock.now()


async def test_a_server_that_dies_after_the_call_makes_no_second_one(world: World) -> None:
    await world.deployed(NEXT, program=echo)
    await world.deployed(destinations=calls("next"))
    _, delivery = await run_and_tell(world)
    forgotten = replace(
        delivery, state=DeliveryState.PENDING, next_time=world.clock.now(), told=None
    )
    await world.repositories.deliveries.update(forgotten)
    new = await world.restart()
    await new.services.recovery.run()
    await deliver(new)
    assert (await delivery_of(new, delivery.execution)).told == delivery.told
    await new.engines.close()


async def test_a_circle_ends(world: World) -> None:
    await world.deployed(program=echo, destinations=calls("hello"))
    first = await world.start()
    await world.ended(first)
    name, rounds = first, 1
    while True:
        await deliver(world)
        delivery = await delivery_of(world, name)
        if delivery.told is None:
            break
        name, rounds = delivery.told, rounds + 1
        await world.ended(name)
    assert rounds == MAX_DEPTH
    assert delivery.state is DeliveryState.FAILED
    assert "circle" in delivery.message


async def test_dead_letters_and_destinations_go_together(world: World) -> None:
    await world.deployed(NEXT, program=fails(9))
    await world.deployed(destinations=calls("next"), retry_policy=RetryPolicy(dead_letters=True))
    _, delivery = await run_and_tell(world)
    assert delivery.state is DeliveryState.DELIVERED
    assert (await world.services.dead_letters.get(delivery.execution)).execution.failure


# -- webhooks -------------------------------------------------------------------------------------

HOST = "hooks.test"
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


class Posts:
    """Stands in for the network: posts to some paths hang until they are let go."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.go_on = asyncio.Event()

    async def post(self, url: str, *_: object) -> None:
        if url.endswith("slow"):
            await self.go_on.wait()
        if url.endswith("broken"):
            raise PostError("the answer was status 500")
        self.arrived.append(url)


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with world_of(webhook_hosts=(HOST,)) as made:
        yield made


@pytest.fixture
def posts(world: World, monkeypatch: pytest.MonkeyPatch) -> Posts:
    made = Posts()
    monkeypatch.setattr(world.services.webhooks, "post", made.post)
    return made


async def end_one(world: World, path: str) -> None:
    """Run a function of its own whose end is posted there."""
    name = FunctionName("default", f"f-{len(world.repositories.functions.rows)}")
    destination = Destination(url=f"http://{HOST}/{path}", secret=SECRET)
    await world.deployed(name, program=says(), destinations=Destinations(on_success=destination))
    await world.ended(await world.start(name))


async def test_a_slow_webhook_holds_up_no_other(world: World, posts: Posts) -> None:
    await world.services.deliveries_alarm.open(world.services.deliveries.run_due)
    for path in ("slow", "quick", "slow", "quick"):
        await end_one(world, path)
        await settle()
    assert posts.arrived == [f"http://{HOST}/quick"] * 2
    posts.go_on.set()
    await settle()
    assert len(posts.arrived) == 4
    await world.services.deliveries_alarm.close()
    await world.services.deliveries.close()


async def test_a_place_that_is_freed_goes_to_the_next(
    world: World, posts: Posts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PLACES", 2)
    for path in ("slow", "slow", "quick"):
        await end_one(world, path)
        world.clock.ahead += timedelta(seconds=1)  # of the same moment, any may be the first
    await world.services.deliveries_alarm.open(world.services.deliveries.run_due)
    await settle()
    assert posts.arrived == []
    posts.go_on.set()
    await settle()
    assert len(posts.arrived) == 3
    await world.services.deliveries_alarm.close()


@pytest.mark.usefixtures("posts")
async def test_a_server_that_stops_lets_go_of_posts(world: World) -> None:
    await end_one(world, "slow")
    await world.services.deliveries.run_due()
    await settle()
    await world.services.deliveries.close()
    assert await world.repositories.deliveries.due(world.clock.now(), 1)


@pytest.mark.usefixtures("posts")
async def test_deliveries_are_counted_by_what_came_of_them(world: World) -> None:
    for path in ("quick", "quick", "broken"):
        await end_one(world, path)
    await deliver(world)
    counts = [
        sample(world, "deliveries_total", kind="webhook", outcome=outcome)
        for outcome in ("delivered", "postponed", "failed")
    ]
    assert counts == [2, 1, None]
