"""Functions: created once, changed without losing a change, deleted with all that runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StorageError,
)
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Function, FunctionSpec, FunctionState
from skybridge_server.services.requests import FunctionDraft, RequestKey
from tests.fakes.runtime import Gate, sleep
from tests.unit.services.world import HELLO, World, key, put_behind, settle

CREATE = key("CreateFunction")
UPDATE = key("UpdateFunction")
DELETE = key("DeleteFunction")


@pytest.fixture
def store(world: World) -> Gate:
    """Holds and fails the methods of the store of functions."""
    gate = Gate()
    for method in ("create", "get", "update", "delete"):
        put_behind(gate, world.repositories.functions, method)
    return gate


async def create(
    world: World, key: RequestKey | None = None, *, validate_only: bool = False
) -> Function:
    draft = FunctionDraft(FunctionSpec(image="busybox"), description="says hello")
    return await world.services.functions.create(HELLO, draft, key=key, validate_only=validate_only)


async def describe(
    world: World, text: str, *, etag: str = "", key: RequestKey | None = None
) -> Function:
    def apply(function: Function) -> FunctionDraft:
        return FunctionDraft(function.spec, function.description + text, function.labels)

    return await world.services.functions.update(
        HELLO, apply, etag=etag, key=key, validate_only=False
    )


async def delete(
    world: World, *, etag: str = "", force: bool = False, key: RequestKey | None = None
) -> None:
    await world.services.functions.delete(HELLO, etag=etag, force=force, key=key)


# -- create -------------------------------------------------------------------------------------


async def test_create(world: World) -> None:
    function = await create(world)
    assert await world.services.functions.get(HELLO) == function
    assert (function.state, function.generation) == (FunctionState.UNDEPLOYED, 1)
    assert (function.active_revision, function.description) == (0, "says hello")
    assert function.uid != function.etag
    with pytest.raises(AlreadyExistsError) as refused:
        await create(world)
    assert refused.value.reason == "FUNCTION_EXISTS"


async def test_a_repeated_creation_gets_the_first_answer(world: World) -> None:
    first = await create(world, CREATE)
    await describe(world, "!")
    assert await create(world, CREATE) == first
    with pytest.raises(AlreadyExistsError) as refused:
        await create(world, replace(CREATE, fingerprint="another"))
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_creations_at_the_same_time(world: World, store: Gate) -> None:
    release = store.hold("create")
    calls = [asyncio.create_task(create(world, CREATE)) for _ in range(5)]
    strangers = [asyncio.create_task(create(world)) for _ in range(2)]
    await settle()
    release.set()
    functions = await asyncio.gather(*calls)
    assert {function.uid for function in functions} == {functions[0].uid}
    refused = await asyncio.gather(*strangers, return_exceptions=True)
    assert [type(each) for each in refused] == [AlreadyExistsError] * 2


async def test_validate_only_checks_the_name_too(world: World) -> None:
    function = await create(world, validate_only=True)
    assert function.name == HELLO
    with pytest.raises(NotFoundError):
        await world.services.functions.get(HELLO)
    await create(world)
    with pytest.raises(AlreadyExistsError):
        await create(world, validate_only=True)


# -- change -------------------------------------------------------------------------------------


async def test_only_a_new_specification_is_a_new_generation(world: World) -> None:
    first = await create(world)
    second = await describe(world, "!")
    assert second.generation == 1
    assert second.etag != first.etag

    def other_image(function: Function) -> FunctionDraft:
        spec = replace(function.spec, image="alpine")
        return FunctionDraft(spec, function.description, function.labels)

    third = await world.services.functions.update(
        HELLO, other_image, etag=second.etag, key=None, validate_only=False
    )
    assert (third.generation, third.spec.image) == (2, "alpine")
    assert third.uid == first.uid


async def test_no_change_is_lost_among_many_writers(world: World, store: Gate) -> None:
    await create(world)
    release = store.hold("update")
    calls = [asyncio.create_task(describe(world, str(number))) for number in range(5)]
    await settle()
    release.set()
    await asyncio.gather(*calls)
    description = (await world.services.functions.get(HELLO)).description
    assert sorted(description.removeprefix("says hello")) == list("01234")


async def test_with_an_etag_one_writer_wins(world: World, store: Gate) -> None:
    etag = (await create(world)).etag
    release = store.hold("update")
    calls = [asyncio.create_task(describe(world, str(n), etag=etag)) for n in range(3)]
    await settle()
    release.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(each).__name__ for each in results) == [
        "AbortedError",
        "AbortedError",
        "Function",
    ]
    with pytest.raises(AbortedError) as refused:
        await describe(world, "late", etag=etag)
    assert refused.value.metadata["etag"] != etag


async def test_repeats_at_the_same_time_change_it_once(world: World, store: Gate) -> None:
    etag = (await create(world)).etag
    release = store.hold("update")
    calls = [asyncio.create_task(describe(world, "!", etag=etag, key=UPDATE)) for _ in range(5)]
    await settle()
    release.set()
    functions = await asyncio.gather(*calls)
    assert {function.description for function in functions} == {"says hello!"}
    assert (await describe(world, "!", etag=etag, key=UPDATE)) == functions[0]
    assert (await world.services.functions.get(HELLO)).description == "says hello!"


async def test_a_repeat_that_looks_after_the_first_wrote(world: World, store: Gate) -> None:
    """It did not find the request recorded, and now finds another etag."""
    etag = (await create(world)).etag
    release = store.hold("get")
    slow = asyncio.create_task(describe(world, "!", etag=etag, key=UPDATE))
    await settle()
    del store.held["get"]
    first = await describe(world, "!", etag=etag, key=UPDATE)
    release.set()
    assert await slow == first


async def test_validate_only_changes_nothing(world: World) -> None:
    function = await create(world)

    def apply(current: Function) -> FunctionDraft:
        return FunctionDraft(replace(current.spec, image="alpine"))

    update = world.services.functions.update
    changed = await update(HELLO, apply, etag="", key=None, validate_only=True)
    assert changed.spec.image == "alpine"
    assert await world.services.functions.get(HELLO) == function
    with pytest.raises(AbortedError):
        await update(HELLO, apply, etag="stale", key=None, validate_only=True)


async def test_a_change_that_cannot_be_made_is_told(world: World) -> None:
    await create(world)

    def refuse(_function: Function) -> FunctionDraft:
        raise InvalidArgumentError

    with pytest.raises(InvalidArgumentError):
        await world.services.functions.update(
            HELLO, refuse, etag="", key=UPDATE, validate_only=False
        )


async def test_disabling_and_enabling(world: World) -> None:
    await create(world)
    functions = world.services.functions

    async def switch(enabled: bool) -> FunctionState:
        return (await functions.set_enabled(HELLO, enabled, etag="", key=None)).state

    assert await switch(False) is FunctionState.DISABLED
    assert await switch(True) is FunctionState.UNDEPLOYED
    await world.deploy()
    assert await switch(False) is FunctionState.DISABLED
    await world.deploy()
    assert (await functions.get(HELLO)).state is FunctionState.DISABLED
    assert await switch(True) is FunctionState.ACTIVE


# -- delete -------------------------------------------------------------------------------------


async def test_delete(world: World) -> None:
    function = await create(world)
    with pytest.raises(AbortedError):
        await delete(world, etag="stale")
    await delete(world, etag=function.etag)
    with pytest.raises(NotFoundError):
        await delete(world)


async def test_a_repeated_deletion_touches_no_successor(world: World) -> None:
    await create(world)
    await delete(world, key=DELETE)
    await delete(world, key=DELETE)
    again = await create(world)
    await delete(world, key=DELETE)
    assert await world.services.functions.get(HELLO) == again


async def test_deletions_at_the_same_time(world: World, store: Gate) -> None:
    await create(world)
    for held in ("get", "delete"):
        release = store.hold(held)
        calls = [asyncio.create_task(delete(world, key=DELETE)) for _ in range(3)]
        await settle()
        release.set()
        assert await asyncio.gather(*calls) == [None] * 3


async def test_without_an_etag_a_writer_in_between_does_not_matter(
    world: World, store: Gate
) -> None:
    function = await create(world)
    release = store.hold("delete")
    plain = asyncio.create_task(delete(world))
    await settle()
    await describe(world, "!")
    release.set()
    await plain
    function = await create(world)
    del store.held["delete"]
    release = store.hold("delete")
    careful = asyncio.create_task(delete(world, etag=function.etag))
    await settle()
    await describe(world, "!")
    release.set()
    with pytest.raises(AbortedError):
        await careful


async def test_what_runs_is_only_stopped_by_force(world: World) -> None:
    await world.deployed(program=sleep)
    names = [await world.start() for _ in range(6)]
    await world.reaches(names[0], ExecutionState.RUNNING)
    with pytest.raises(FailedPreconditionError) as refused:
        await delete(world)
    assert refused.value.reason == "EXECUTIONS_UNFINISHED"
    await delete(world, force=True)
    for name in names:
        failure = (await world.ended(name)).failure
        assert failure is not None
        assert (failure.reason, failure.message) == (
            FailureReason.CANCELLED,
            "its function was deleted",
        )
    with pytest.raises(NotFoundError):
        await world.services.functions.get(HELLO)


async def test_by_force_while_callers_keep_coming(world: World) -> None:
    await world.deployed(program=sleep)
    come = True

    async def caller() -> None:
        while come:
            await asyncio.gather(world.start(), return_exceptions=True)
            await asyncio.sleep(0.01)

    callers = [asyncio.create_task(caller()) for _ in range(5)]
    await asyncio.sleep(0.1)
    await delete(world, force=True)
    come = False
    await asyncio.gather(*callers)
    await world.idle()
    for name in world.repositories.executions.rows:
        assert (await world.ended(name)).state is ExecutionState.CANCELLED


@pytest.mark.parametrize("force", [False, True])
async def test_an_execution_on_its_way_in_comes_too_late(world: World, force: bool) -> None:
    await world.deployed()
    gate = Gate()
    put_behind(gate, world.repositories.revisions, "get")
    release = gate.hold("get")
    call = asyncio.create_task(world.execute())
    await settle()
    await delete(world, force=force)
    release.set()
    with pytest.raises(NotFoundError):
        await call
    assert not world.repositories.executions.rows
    assert world.services.system.info().running_executions == 0


async def test_an_execution_on_its_way_into_a_function_that_is_disabled(world: World) -> None:
    await world.deployed()
    gate = Gate()
    put_behind(gate, world.repositories.revisions, "get")
    release = gate.hold("get")
    call = asyncio.create_task(world.execute())
    await settle()
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    release.set()
    with pytest.raises(FailedPreconditionError):
        await call


async def test_a_store_that_fails_is_told(world: World, store: Gate) -> None:
    store.failures["create"] = StorageError("disk full")
    with pytest.raises(StorageError):
        await create(world, CREATE)
