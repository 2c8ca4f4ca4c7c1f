"""Images that deployments pulled are removed when no revision needs them; no other ever is."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import pytest

from skybridge_server.models.functions import PulledImage, PullPolicy
from skybridge_server.models.names import FunctionName
from tests.fakes.runtime import IMAGE
from tests.unit.services.world import BUSYBOX, HELLO, World, settle

NEWER = replace(IMAGE, id="sha256:" + "3" * 64)


def remembered(world: World) -> set[PulledImage]:
    return world.repositories.images.rows


async def pulled(world: World) -> PulledImage:
    """Deploy a function whose image must be pulled."""
    del world.runtime.images.present[BUSYBOX]
    world.runtime.images.registry[BUSYBOX] = NEWER
    await world.deployed()
    return PulledImage("docker", NEWER.id, BUSYBOX)


async def delete_function(world: World) -> None:
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)


async def test_what_a_deployment_pulled_is_remembered_and_removed(world: World) -> None:
    image = await pulled(world)
    assert remembered(world) == {image}
    await world.services.pulled_images.prune()
    assert BUSYBOX in world.runtime.images.present
    await delete_function(world)
    await world.services.pulled_images.prune()
    assert BUSYBOX not in world.runtime.images.present
    assert not remembered(world)


async def test_what_was_there_before_is_never_touched(world: World) -> None:
    world.runtime.images.registry[BUSYBOX] = IMAGE
    await world.deployed(pull_policy=PullPolicy.ALWAYS)
    await delete_function(world)
    await world.services.pulled_images.prune()
    assert not remembered(world)
    assert BUSYBOX in world.runtime.images.present


async def test_what_a_pull_brings_anew_is_remembered(world: World) -> None:
    world.runtime.images.registry[BUSYBOX] = NEWER
    await world.deployed(pull_policy=PullPolicy.ALWAYS)
    assert remembered(world) == {PulledImage("docker", NEWER.id, BUSYBOX)}


async def test_what_an_operator_pulls_is_kept(world: World) -> None:
    await pulled(world)
    steps = world.services.deployments.pull(BUSYBOX, "", None)
    _ = [step async for step in steps]
    assert not remembered(world)


async def test_nothing_is_removed_while_a_function_is_deployed(world: World) -> None:
    image = await pulled(world)
    await delete_function(world)
    await world.create()
    gate = world.runtime.gate.hold("check")
    deploying = asyncio.create_task(world.deploy())
    await settle()
    await world.services.pulled_images.prune()
    gate.set()
    await deploying
    await world.services.pulled_images.prune()
    assert remembered(world) == {image}
    assert (await world.run()).exit_code == 0


async def test_a_deployment_waits_for_a_removal(world: World) -> None:
    await pulled(world)
    await delete_function(world)
    gate = world.runtime.gate.hold("remove_image")
    pruning = asyncio.create_task(world.services.pulled_images.prune())
    await settle()
    await world.create()
    deploying = asyncio.create_task(world.deploy())
    await settle()
    gate.set()
    await asyncio.gather(pruning, deploying)
    assert BUSYBOX in world.runtime.images.present, "it was pulled again"


@pytest.mark.parametrize("away", [False, True])
async def test_what_cannot_be_removed_now_is_tried_again(world: World, away: bool) -> None:
    image = await pulled(world)
    await delete_function(world)
    images = world.runtime.images
    images.in_use.add(image.image_id)
    world.runtime.gate.away = away
    await world.services.pulled_images.prune()
    assert remembered(world) == {image}
    images.in_use.clear()
    world.runtime.gate.away = False
    await world.services.pulled_images.prune()
    assert not remembered(world)


async def test_an_image_that_resists_protects_no_other(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    image = await pulled(world)
    await delete_function(world)
    other = replace(image, runtime="of an earlier configuration")
    await world.repositories.images.add(other)
    await world.services.pulled_images.prune()
    assert remembered(world) == {other}
    events = [entry["event"] for entry in logged]
    assert "image not removed" in events
    assert "image removed" in events


async def test_an_image_of_two_functions_stays_for_the_other(world: World) -> None:
    image = await pulled(world)
    await world.deployed(FunctionName("default", "other"))
    await delete_function(world)
    await world.services.pulled_images.prune()
    assert remembered(world) == {image}
