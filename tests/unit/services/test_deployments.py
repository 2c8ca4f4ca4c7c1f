"""Deployments: their steps, what refuses them, who joins them, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    ImageNotFoundError,
    NotFoundError,
    RuntimeUnavailableError,
    SkybridgeError,
    StorageError,
)
from skybridge_server.models.functions import (
    FunctionSpec,
    FunctionState,
    PullPolicy,
    Resources,
    Revision,
)
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.paging import PageRequest
from skybridge_server.runtimes.base import Credentials, Image, PullProgress
from skybridge_server.services.progress import QUEUED_STEPS, Progress, Step
from skybridge_server.services.requests import DeploymentPhase, FunctionDraft
from tests.fakes.runtime import IMAGE, Gate
from tests.unit.services.world import (
    BUSYBOX,
    HELLO,
    World,
    key,
    put_behind,
    settle,
    until,
    world_of,
)

RESOLVING, PULLING, CHECKING, ACTIVATING = DeploymentPhase
DEPLOY = key("DeployFunction")
ALPINE = "docker.io/library/alpine:latest"


def deployment(
    world: World,
    name: FunctionName = HELLO,
    *,
    etag: str = "",
    credentials: Credentials | None = None,
    **fields: Any,
) -> AsyncGenerator[Step]:
    fields.setdefault("key", None)
    return world.services.deployments.deploy(name, etag=etag, credentials=credentials, **fields)


async def deploy(world: World, **fields: Any) -> Revision:
    *_, last = [step async for step in deployment(world, **fields)]
    assert isinstance(last, Revision)
    return last


async def change_spec(world: World, **changes: Any) -> None:
    await world.services.functions.update(
        HELLO,
        lambda function: FunctionDraft(replace(function.spec, **changes)),
        etag="",
        key=None,
        validate_only=False,
    )


async def active(world: World) -> int:
    return (await world.services.functions.get(HELLO)).active_revision


# -- steps --------------------------------------------------------------------------------------


async def test_an_image_that_is_there_is_not_pulled(world: World) -> None:
    await world.create()
    *phases, revision = [step async for step in deployment(world)]
    assert phases == [RESOLVING, CHECKING, ACTIVATING]
    assert isinstance(revision, Revision)
    assert revision.name == RevisionName(HELLO, 1)
    assert (revision.image_id, revision.image_digest) == (IMAGE.id, IMAGE.digest)
    function = await world.services.functions.get(HELLO)
    assert (function.state, function.active_revision) == (FunctionState.ACTIVE, 1)
    assert await world.services.deployments.get_revision(revision.name) == revision


@pytest.mark.parametrize("policy", [PullPolicy.ALWAYS, PullPolicy.IF_NOT_PRESENT])
async def test_an_image_is_pulled_with_the_callers_credentials(
    world: World, policy: PullPolicy
) -> None:
    if policy is PullPolicy.IF_NOT_PRESENT:
        world.runtime.images.present.clear()
    world.runtime.images.registry[BUSYBOX] = newer = replace(IMAGE, id="sha256:" + "9" * 64)
    await world.create(pull_policy=policy)
    login = Credentials("me", "secret")
    steps = [step async for step in deployment(world, credentials=login)]
    assert [step for step in steps if isinstance(step, DeploymentPhase)] == [
        RESOLVING,
        PULLING,
        CHECKING,
        ACTIVATING,
    ]
    assert [step.status for step in steps if isinstance(step, PullProgress)] == [
        "Downloading",
        "Pull complete",
    ]
    assert world.runtime.images.pulled_with == [login]
    assert isinstance(steps[-1], Revision)
    assert steps[-1].image_id == newer.id


async def test_a_revision_keeps_the_specification_of_its_deployment(world: World) -> None:
    await world.create(env={"A": "1"})
    await deploy(world)
    await change_spec(world, env={"A": "2"})
    assert (await world.run()).revision == 1
    assert world.runtime.containers.created[-1].env["A"] == "1"
    second = await deploy(world)
    assert (second.name.number, second.generation) == (2, 2)
    await world.run()
    assert world.runtime.containers.created[-1].env["A"] == "2"
    page = await world.services.deployments.list_revisions(HELLO, PageRequest(10))
    assert [revision.name.number for revision in page.items] == [2, 1]


# -- what refuses it ----------------------------------------------------------------------------


def _wrong_platform(world: World) -> None:
    world.runtime.images.present[BUSYBOX] = replace(IMAGE, platform="linux/arm64/v8")


def _no_entry_point(world: World) -> None:
    world.runtime.images.present[BUSYBOX] = replace(IMAGE, command=())


def _engine_away(world: World) -> None:
    world.runtime.gate.failures["get_image"] = RuntimeUnavailableError("away")


def _image_missing(world: World) -> None:
    world.runtime.images.present.clear()


def _vanishing(world: World) -> None:
    world.runtime.images.registry[BUSYBOX] = IMAGE
    world.runtime.images.present = _Forgetful()


class _Forgetful(dict[str, Image]):
    def __setitem__(self, key: str, value: Image) -> None:
        """Somebody prunes at once."""


REFUSALS: dict[str, tuple[Callable[[World], None], dict[str, Any], type[SkybridgeError], str]] = {
    "platform": (_wrong_platform, {}, FailedPreconditionError, "IMAGE_PLATFORM"),
    "entry point": (_no_entry_point, {}, FailedPreconditionError, "NO_ENTRY_POINT"),
    "engine": (_engine_away, {}, RuntimeUnavailableError, "RUNTIME_UNAVAILABLE"),
    "registry": (_image_missing, {}, ImageNotFoundError, "IMAGE_NOT_FOUND"),
    "never pulled": (
        _image_missing,
        {"pull_policy": PullPolicy.NEVER},
        ImageNotFoundError,
        "IMAGE_NOT_FOUND",
    ),
    "pruned": (_vanishing, {}, ImageNotFoundError, "IMAGE_NOT_FOUND"),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_refusals_are_told_and_noted(world: World, why: str) -> None:
    prepare, spec, error, reason = REFUSALS[why]
    await world.create(**spec)
    prepare(world)
    with pytest.raises(error) as refused:
        await deploy(world)
    assert refused.value.reason == reason
    function = await world.services.functions.get(HELLO)
    assert function.state_message == f"last deployment failed: {refused.value.message}"
    assert (function.state, function.active_revision) == (FunctionState.UNDEPLOYED, 0)


async def test_a_success_clears_the_note(world: World) -> None:
    await world.create()
    world.runtime.gate.failures["get_image"] = RuntimeUnavailableError("away")
    with pytest.raises(RuntimeUnavailableError):
        await deploy(world)
    world.runtime.gate.failures.clear()
    await deploy(world)
    assert (await world.services.functions.get(HELLO)).state_message == ""


async def test_a_failed_deployment_leaves_the_active_revision_alone(world: World) -> None:
    await world.deployed()
    await change_spec(world, image="alpine")
    with pytest.raises(ImageNotFoundError):
        await deploy(world)
    assert await active(world) == 1
    assert (await world.run()).revision == 1


async def test_limits_count_as_they_are_now() -> None:
    async with world_of(max_memory_bytes=64 * 1024 * 1024) as world:
        await world.create(resources=Resources(memory_bytes=128 * 1024 * 1024, pids=100_000))
        with pytest.raises(FailedPreconditionError) as refused:
            await deploy(world)
    assert refused.value.reason == "SPEC_REFUSED"
    assert "spec.resources.memory_bytes must be between" in refused.value.message
    assert "spec.resources.pids" in refused.value.message


async def test_trust_counts_as_it_is_now() -> None:
    async with world_of(allowed_images=("ghcr.io/acme/*",)) as world:
        await world.create()
        with pytest.raises(FailedPreconditionError) as refused:
            await deploy(world)
        assert refused.value.reason == "IMAGE_REFUSED"
        with pytest.raises(FailedPreconditionError):
            _ = [step async for step in world.services.deployments.pull("busybox", "", None)]


async def test_what_is_not_there_or_was_changed(world: World) -> None:
    with pytest.raises(NotFoundError):
        await deploy(world)
    await world.create()
    with pytest.raises(AbortedError):
        await deploy(world, etag="stale")
    assert (await world.services.functions.get(HELLO)).state_message == ""


# -- others in between --------------------------------------------------------------------------


async def test_it_goes_on_when_its_caller_leaves(world: World) -> None:
    await world.create()
    release = world.runtime.gate.hold("get_image")
    steps = deployment(world)
    assert await anext(steps) is RESOLVING
    await steps.aclose()
    release.set()
    await until(lambda: not world.services.deployments._tasks)
    assert await active(world) == 1


async def test_a_failure_that_nobody_waits_for_is_noted(
    world: World, logged: list[dict[str, Any]]
) -> None:
    await world.create()
    release = world.runtime.gate.hold("get_image")
    for error in (RuntimeUnavailableError("away"), ValueError("a defect")):
        steps = deployment(world)
        await anext(steps)
        await steps.aclose()
        world.runtime.gate.failures["get_image"] = error
        release.set()
        await until(lambda: not world.services.deployments._tasks)
        release.clear()
    assert "away" in (await world.services.functions.get(HELLO)).state_message
    assert [e["event"] for e in logged if e["event"].startswith("deployment")] == [
        "deployment failed",
        "deployment broke",
    ]


async def test_deployments_at_the_same_time_each_make_a_revision(world: World) -> None:
    await world.create()
    release = world.runtime.gate.hold("check")
    calls = [asyncio.create_task(deploy(world)) for _ in range(5)]
    await settle()
    release.set()
    revisions = await asyncio.gather(*calls)
    assert sorted(revision.name.number for revision in revisions) == [1, 2, 3, 4, 5]
    assert await active(world) == 5


async def test_a_change_in_between_is_not_lost(world: World) -> None:
    await world.create()
    release = world.runtime.gate.hold("check")
    call = asyncio.create_task(deploy(world))
    await settle()
    await change_spec(world, env={"NEW": "1"})
    release.set()
    revision = await call
    function = await world.services.functions.get(HELLO)
    assert (revision.spec.env, function.spec.env) == ({}, {"NEW": "1"})
    assert (revision.generation, function.generation) == (1, 2)


@pytest.mark.parametrize("again", [False, True])
async def test_a_function_that_is_deleted_meanwhile(world: World, again: bool) -> None:
    await world.create()
    release = world.runtime.gate.hold("check")
    call = asyncio.create_task(deploy(world))
    await settle()
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)
    if again:
        await world.create()
    release.set()
    with pytest.raises(AbortedError, match="deleted meanwhile") as refused:
        await call
    assert refused.value.reason == "FUNCTION_REPLACED"
    if again:
        assert (await world.services.functions.get(HELLO)).state_message == ""


async def test_a_deletion_in_the_very_moment_of_activation(world: World) -> None:
    gate = Gate()
    put_behind(gate, world.repositories.revisions, "activate_new")
    await world.create()
    release = gate.hold("activate_new")
    call = asyncio.create_task(deploy(world))
    await gate.seen("activate_new").wait()
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)
    release.set()
    with pytest.raises(AbortedError, match="deleted meanwhile"):
        await call


async def test_a_store_that_fails_is_told(world: World) -> None:
    gate = Gate()
    put_behind(gate, world.repositories.revisions, "activate_new")
    gate.failures["activate_new"] = StorageError("disk full")
    await world.create()
    with pytest.raises(StorageError):
        await deploy(world)
    assert "disk full" in (await world.services.functions.get(HELLO)).state_message


async def test_stopping_the_server_gives_up_what_is_deployed(world: World) -> None:
    await world.create()
    world.runtime.gate.hold("get_image")
    call = asyncio.create_task(deploy(world))
    await settle()
    await world.services.deployments.close()
    await asyncio.gather(call, return_exceptions=True)
    assert not world.services.deployments._tasks
    assert await active(world) == 0


# -- repeats ------------------------------------------------------------------------------------


async def test_a_repeat_gets_the_first_revision(world: World) -> None:
    await world.create()
    first = await deploy(world, key=DEPLOY)
    assert [step async for step in deployment(world, key=DEPLOY)] == [first]
    with pytest.raises(AlreadyExistsError):
        await deploy(world, key=replace(DEPLOY, fingerprint="another"))
    assert await active(world) == 1


async def test_a_repeat_joins_the_deployment_under_way(world: World) -> None:
    world.runtime.images.present.clear()
    world.runtime.images.registry[BUSYBOX] = IMAGE
    etag = (await world.create()).etag
    release = world.runtime.gate.hold("pull")
    first = deployment(world, key=DEPLOY, etag=etag)
    assert [await anext(first) for _ in range(2)] == [RESOLVING, PULLING]
    await first.aclose()  # cut off, so it asks again
    second = asyncio.create_task(_steps(world, etag))
    third = asyncio.create_task(_steps(world, etag))
    await settle()
    with pytest.raises(AlreadyExistsError) as refused:
        await deploy(world, key=replace(DEPLOY, fingerprint="another"))
    assert refused.value.reason == "REQUEST_ID_REUSED"
    release.set()
    steps = await second
    assert steps == await third
    assert [step for step in steps if isinstance(step, DeploymentPhase)] == [
        PULLING,
        CHECKING,
        ACTIVATING,
    ]
    assert await active(world) == 1
    assert len(world.runtime.images.pulled_with) == 1


async def _steps(world: World, etag: str) -> list[Step]:
    return [step async for step in deployment(world, key=DEPLOY, etag=etag)]


async def test_repeats_at_the_same_time_make_one_revision(world: World) -> None:
    await world.create()
    gate = Gate()
    put_behind(gate, world.repositories.functions, "get")
    release = gate.hold("get")
    calls = [asyncio.create_task(deploy(world, key=DEPLOY)) for _ in range(5)]
    await settle()
    release.set()
    revisions = await asyncio.gather(*calls)
    assert {revision.name.number for revision in revisions} == {1}


async def test_after_a_failure_a_repeat_tries_again(world: World) -> None:
    await world.create()
    world.runtime.gate.failures["get_image"] = RuntimeUnavailableError("away")
    with pytest.raises(RuntimeUnavailableError):
        await deploy(world, key=DEPLOY)
    world.runtime.gate.failures.clear()
    assert (await deploy(world, key=DEPLOY)).name.number == 1


async def test_a_slow_listener_misses_only_progress_of_layers() -> None:
    progress = Progress()
    steps = progress.steps()
    reading = asyncio.ensure_future(anext(steps))
    await settle()
    progress.tell(PULLING)
    for number in range(2 * QUEUED_STEPS):
        progress.tell(PullProgress("layer", "Downloading", number, 1000))
    progress.tell(CHECKING)
    progress.end()
    seen = [await reading, *[step async for step in steps]]
    assert (seen[0], seen[-1]) == (PULLING, CHECKING)
    assert len(seen) <= QUEUED_STEPS + 3
    assert not progress._listeners
    assert [step async for step in progress.steps()] == []


# -- the way back -------------------------------------------------------------------------------


async def rollback(world: World, number: int = 0, **fields: Any) -> int:
    fields.setdefault("key", None)
    fields.setdefault("etag", "")
    function = await world.services.deployments.rollback(HELLO, number, **fields)
    assert function == await world.services.functions.get(HELLO)
    return function.active_revision


async def test_rollback(world: World) -> None:
    await world.create()
    with pytest.raises(FailedPreconditionError) as refused:
        await rollback(world)
    assert refused.value.reason == "NO_EARLIER_REVISION"
    for _ in range(3):
        await deploy(world)
    assert [await rollback(world), await rollback(world), await rollback(world, 3)] == [2, 1, 3]
    with pytest.raises(NotFoundError):
        await rollback(world, 4)
    assert await rollback(world, 1) == 1
    with pytest.raises(FailedPreconditionError):
        await rollback(world)
    assert (await world.run()).revision == 1
    assert (await deploy(world)).name.number == 4


async def test_rollback_is_idempotent(world: World) -> None:
    await world.create()
    for _ in range(3):
        await deploy(world)
    again = key("RollbackFunction")
    etag = (await world.services.functions.get(HELLO)).etag
    assert await rollback(world, key=again, etag=etag) == 2
    assert await rollback(world, key=again, etag=etag) == 2
    with pytest.raises(AbortedError):
        await rollback(world, etag=etag)


async def test_no_rollback_to_an_image_that_is_gone(world: World) -> None:
    await world.create()
    await deploy(world)
    await deploy(world)
    world.runtime.images.present.clear()
    with pytest.raises(FailedPreconditionError) as refused:
        await rollback(world)
    assert refused.value.reason == "IMAGE_GONE"
    world.runtime.gate.away = True
    with pytest.raises(RuntimeUnavailableError):
        await rollback(world)
    assert await active(world) == 2


async def test_a_rollback_hits_no_successor_of_the_function(world: World) -> None:
    await world.create()
    await deploy(world)
    await deploy(world)
    release = world.runtime.gate.hold("get_image")
    call = asyncio.create_task(rollback(world))
    await settle()
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)
    await world.create()
    release.set()
    with pytest.raises(AbortedError):
        await call
    assert await active(world) == 0


async def test_a_disabled_function_stays_so(world: World) -> None:
    await world.create()
    await deploy(world)
    await deploy(world)
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    assert await rollback(world) == 1
    assert (await world.services.functions.get(HELLO)).state is FunctionState.DISABLED


async def test_pulling_without_a_deployment(world: World) -> None:
    world.runtime.images.registry[ALPINE] = IMAGE
    steps = [step async for step in world.services.deployments.pull("alpine", "", None)]
    assert steps[-1] == IMAGE
    assert all(isinstance(step, PullProgress) for step in steps[:-1])
    spec = FunctionSpec(image="alpine")
    assert spec.pull_policy is PullPolicy.IF_NOT_PRESENT
