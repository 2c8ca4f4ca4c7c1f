"""Destinations: who is told of an end, how often it is tried, and that circles end."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from skybridge_server.models.destinations import (
    Delivery,
    DeliveryState,
    Destination,
    Destinations,
)
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services.deliveries import CAUSE_LABEL, MAX_AGE, MAX_DEPTH
from tests.fakes.runtime import FakeProcess, says, sleep
from tests.unit.services.test_retries import THRICE, fails, run_all
from tests.unit.services.world import HELLO, World

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


async def run_and_tell(world: World, function: FunctionName = HELLO) -> tuple[Any, Delivery]:
    """Run a function, and return what was told of its end."""
    name = await world.start(function)
    await world.ended(name)
    await world.services.deliveries.run_due()
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
    assert await world.services.deliveries.run_due() is None


async def test_a_function_is_told_of_failure_for_good_once(world: World) -> None:
    await world.deployed(NEXT, program=fails(9))
    await world.deployed(destinations=calls(str(NEXT)), retry_policy=THRICE)
    name = await world.start()
    await world.idle()
    assert await world.repositories.deliveries.next_time() is None  # it may still succeed
    await run_all(world, name)
    await world.services.deliveries.run_due()
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
    assert await world.repositories.deliveries.next_time() is None


async def test_it_is_tried_again_until_the_function_is_there(world: World) -> None:
    await world.deployed(program=says(), destinations=calls("next"))
    told, delivery = await run_and_tell(world)
    assert told is None
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 1)
    assert "does not exist" in delivery.message
    await world.deployed(NEXT)
    world.clock.ahead += timedelta(seconds=1)
    await world.services.deliveries.run_due()
    assert (await delivery_of(world, delivery.execution)).state is DeliveryState.DELIVERED


async def test_it_is_given_up_in_the_end(world: World) -> None:
    await world.deployed(program=says(), destinations=calls("next"))
    _, delivery = await run_and_tell(world)
    old = replace(delivery, create_time=world.clock.now() - MAX_AGE, next_time=world.clock.now())
    await world.repositories.deliveries.update(old)
    assert await world.services.deliveries.run_due() is None
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
    await new.services.deliveries.run_due()
    assert (await delivery_of(new, delivery.execution)).told == delivery.told
    await new.engines.close()


async def test_a_circle_ends(world: World) -> None:
    await world.deployed(program=echo, destinations=calls("hello"))
    first = await world.start()
    await world.ended(first)
    name, rounds = first, 1
    while True:
        await world.services.deliveries.run_due()
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
