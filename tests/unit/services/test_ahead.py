"""Containers that are created ahead: who takes them, what replaces them, and what removes them."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import pytest

from skybridge_server.errors import (
    ContainerStartError,
    FailedPreconditionError,
    RuntimeUnavailableError,
)
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import (
    Contract,
    ContractKind,
    FunctionSpec,
    Revision,
    Scaling,
)
from skybridge_server.models.names import RevisionName
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.services import labels
from skybridge_server.services.ahead import LONGEST_PAUSE, REPLACE_AFTER, Ahead
from skybridge_server.services.engines import Engines
from tests.fakes.runtime import IMAGE, FakeContainer, FakeProcess, FakeRuntime, echo, says, sleep
from tests.unit.services.world import (
    BUSYBOX,
    EPOCH,
    HELLO,
    SERVER_ID,
    World,
    maker_of,
    output_of,
    sample,
    settle,
    until,
)

S = ExecutionState
COUNTS = ("taken", "missed")
TWO = Scaling(min_instances=2)
Logged = list[MutableMapping[str, Any]]


def waiting(world: World) -> dict[str, FakeContainer]:
    """Return the containers that were created ahead, and not started, by their ids."""
    return {
        id_: each
        for id_, each in world.runtime.containers.present.items()
        if labels.AHEAD in each.spec.labels and each.start_time is None
    }


def revisions(world: World) -> list[str]:
    return [each.spec.labels[labels.REVISION] for each in waiting(world).values()]


async def full(world: World, count: int = 2) -> None:
    """Wait until so many stand there, and all else has gone."""
    await world.idle()
    await until(lambda: len(waiting(world)) == count)
    await settle()
    assert len(world.services.ahead) == len(world.runtime.containers.present) == count


async def update(world: World, scaling: Scaling = TWO) -> None:
    """Deploy another revision."""

    def apply(function: Any) -> Any:
        spec = replace(function.spec, scaling=scaling, env={"NEW": function.etag})
        return replace(function, spec=spec)

    await world.services.functions.update(HELLO, apply, etag="", key=None, validate_only=False)
    await world.deploy()


def fail_ahead(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Let the engine create containers for executions alone; returns how often it refused."""
    create, refused = world.runtime.containers.create, [0]

    async def refuse(spec: ContainerSpec) -> str:
        if spec.ahead:
            refused[0] += 1
            raise error
        return await create(spec)

    monkeypatch.setattr(world.runtime.containers, "create", refuse)
    return refused


# -- taking them ---------------------------------------------------------------------------------


async def test_an_execution_takes_one_and_it_is_replaced_after_the_answer(world: World) -> None:
    await world.deployed(program=says(b"hello"), scaling=TWO)
    made = waiting(world)
    assert len(made) == 2
    execution = await world.run()
    assert output_of(world.journal(execution.name)) == b"hello"
    assert execution.cold_start
    await full(world)
    assert len(made.keys() & waiting(world).keys()) == 1
    assert len(world.runtime.containers.created) == 3
    assert sample(world, "containers_ahead") == 2
    assert sample(world, "containers_ahead_taken_total") == 1
    assert sample(world, "containers_ahead_missed_total") == 0


async def test_one_that_is_taken_has_the_name_by_which_it_is_found_again(world: World) -> None:
    await world.deployed(program=sleep, scaling=TWO)
    active = await world.reaches(await world.start(), S.RUNNING)
    spec = world.runtime.containers.present[active.container_id].spec
    assert spec.name == labels.container_name(active.journal.execution)
    assert labels.AHEAD in spec.labels


async def test_two_executions_never_share_one_and_all_know_the_same(world: World) -> None:
    seen: list[FakeProcess] = []

    async def tell(process: FakeProcess) -> int:
        seen.append(process)
        return await echo(process)

    await world.deployed(program=tell, scaling=TWO, env={"MINE": "1"})
    names = [await world.start(input=b"%d" % n) for n in range(5)]
    for number, name in enumerate(names):
        await world.ended(name)
        assert output_of(world.journal(name)) == b"%d" % number
    assert len({id(process) for process in seen}) == 5
    assert [dict(process.spec.env) for process in seen] == 5 * [
        {"MINE": "1", "SKYBRIDGE_FUNCTION": str(HELLO), "SKYBRIDGE_REVISION": "1"}
    ]
    taken, missed = (sample(world, f"containers_ahead_{each}_total") for each in COUNTS)
    assert taken is not None
    assert missed is not None
    assert taken >= 2
    assert taken + missed == 5
    await full(world)


async def test_one_that_is_used_for_long_is_replaced_meanwhile(world: World) -> None:
    await world.deployed(program=sleep, scaling=TWO)
    await world.reaches(await world.start(), S.RUNNING)
    await asyncio.sleep(REPLACE_AFTER / 2)
    assert len(waiting(world)) == 1
    await until(lambda: len(waiting(world)) == 2)


async def test_those_of_an_earlier_revision_get_none(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1, min_instances=1))
    first, second = [await world.start() for _ in range(2)]
    await world.reaches(first, S.RUNNING)
    world.runtime.containers.program = says()
    await update(world)
    await world.services.executions.cancel(first)
    assert (await world.ended(second)).revision == 1
    assert sample(world, "containers_ahead_taken_total") == 1
    assert (await world.run()).revision == 2
    assert sample(world, "containers_ahead_taken_total") == 2


# -- in step with the function -------------------------------------------------------------------


async def test_a_deployment_has_them_before_it_activates(world: World) -> None:
    await world.create(scaling=TWO)
    held = world.runtime.gate.hold("create")
    deploying = asyncio.create_task(world.deploy())
    await world.runtime.gate.seen("create").wait()
    await settle()
    assert (await world.services.functions.get(HELLO)).active_revision == 0
    held.set()
    await deploying
    assert revisions(world) == ["1", "1"]


async def test_a_deployment_that_cannot_have_them_fails_and_leaves_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create(scaling=TWO)
    fail_ahead(world, monkeypatch, ContainerStartError("no space left"))
    with pytest.raises(FailedPreconditionError, match="created ahead: no space left") as caught:
        await world.deploy()
    assert caught.value.reason == "INSTANCES_NOT_READY"
    assert (await world.services.functions.get(HELLO)).active_revision == 0
    await full(world, 0)


async def test_a_deployment_that_takes_too_long_fails(world: World) -> None:
    await world.create(scaling=TWO)
    held = world.runtime.gate.hold("create")
    with pytest.raises(FailedPreconditionError, match="longer than"):
        await world.deploy()
    held.set()
    await full(world, 0)


async def test_the_active_revision_has_them_and_no_other(world: World) -> None:
    services = world.services
    await world.deployed(scaling=TWO)
    await update(world)
    await full(world)
    assert revisions(world) == ["2", "2"]
    await services.deployments.rollback(HELLO, 1, etag="", key=None)
    await full(world)
    assert revisions(world) == ["1", "1"]
    await services.functions.set_enabled(HELLO, False, etag="", key=None)
    await full(world, 0)
    await world.deploy()
    await full(world, 0)
    await services.functions.set_enabled(HELLO, True, etag="", key=None)
    await full(world)
    assert revisions(world) == ["3", "3"]
    await update(world, Scaling())
    await full(world, 0)
    await update(world)
    await services.functions.delete(HELLO, etag="", force=True, key=None)
    await full(world, 0)


async def test_a_revision_that_keeps_instances_has_none(world: World) -> None:
    await world.deployed(scaling=TWO)
    function = await world.services.functions.get(HELLO)
    (revision,) = world.repositories.revisions.rows.values()
    spec = replace(revision.spec, contract=Contract(ContractKind.HTTP))
    number = replace(revision.name, number=2)
    world.services.ahead.activate(function.uid, replace(revision, name=number, spec=spec))
    await full(world, 0)


async def test_none_are_left_when_the_server_stops(world: World) -> None:
    await world.deployed(scaling=TWO)
    await world.services.instances.close()
    assert world.runtime.containers.present == {}
    assert (await world.run()).state is S.SUCCEEDED
    await world.idle()
    assert world.runtime.containers.present == {}


async def test_a_stop_does_not_wait_for_ever(world: World) -> None:
    await world.deployed(scaling=TWO)
    world.runtime.gate.hold("remove")
    await world.services.instances.close()


async def test_what_is_being_made_when_the_server_stops_is_not_kept(world: World) -> None:
    await world.deployed(program=says(), scaling=TWO)
    world.runtime.gate.entered.clear()
    world.runtime.gate.hold("create")
    await world.run()
    await world.runtime.gate.seen("create").wait()
    await world.services.instances.close()
    assert world.runtime.containers.present == {}


# -- what goes wrong -----------------------------------------------------------------------------


async def test_one_that_was_removed_is_noticed_and_replaced(world: World) -> None:
    await world.deployed(scaling=TWO)
    await world.services.sweeper.open()
    await settle()
    gone = next(iter(waiting(world)))
    await world.runtime.containers.remove(gone)
    await full(world)
    assert gone not in waiting(world)
    await world.services.sweeper.close()


async def test_an_execution_does_without_one_that_is_gone(world: World) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    first = next(iter(waiting(world)))
    del world.runtime.containers.present[first]
    assert (await world.run()).state is S.SUCCEEDED
    await full(world)


async def test_an_execution_does_without_one_that_does_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    before, start = waiting(world), world.runtime.containers.start

    async def refuse(container_id: str) -> None:
        if container_id in before:
            raise ContainerStartError("network not found")
        await start(container_id)

    monkeypatch.setattr(world.runtime.containers, "start", refuse)
    execution = await world.run()
    assert execution.state is S.SUCCEEDED
    await full(world)
    assert not before.keys() & waiting(world).keys()
    assert sum("network not found" in str(each.get("detail")) for each in logged) == 2


async def test_those_that_do_not_start_are_made_ever_more_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    containers = world.runtime.containers
    start, broken = containers.start, True

    async def refuse(container_id: str) -> None:
        if broken and labels.AHEAD in containers.get(container_id).spec.labels:
            raise ContainerStartError("network not found")
        await start(container_id)

    monkeypatch.setattr(containers, "start", refuse)
    before = len(containers.created)
    for _ in range(600):
        assert (await world.run()).state is S.SUCCEEDED
        await asyncio.sleep(1)
    made = [each for each in containers.created[before:] if each.ahead]
    assert 10 < len(made) < 40
    assert [each["event"] for each in logged].count("no containers made ahead") == 1
    broken = False
    await asyncio.sleep(LONGEST_PAUSE)
    await full(world)


async def test_an_engine_that_hangs_holds_up_no_other() -> None:
    runtimes = {name: FakeRuntime(name) for name in ("docker", "other")}
    for runtime in runtimes.values():
        runtime.images.present[BUSYBOX] = IMAGE
    runtimes["docker"].gate.hold("create")
    engines = Engines(runtimes, "docker")
    await engines.open()
    ahead = Ahead(engines, maker_of(engines), SERVER_ID)
    for name in runtimes:
        ahead.activate(name, stdio_revision(name))
    await until(lambda: len(runtimes["other"].containers.present) == 2)
    assert runtimes["docker"].containers.present == {}
    await ahead.close()
    await engines.close()


def stdio_revision(runtime: str) -> Revision:
    return Revision(
        name=RevisionName(HELLO, 1),
        spec=FunctionSpec(image="busybox", runtime=runtime, scaling=TWO),
        image_id=IMAGE.id,
        image_digest="",
        platform="linux/amd64",
        image_bytes=1,
        generation=1,
        create_time=EPOCH,
    )


async def test_a_function_that_never_starts_says_why(world: World) -> None:
    await world.deployed(scaling=TWO)
    world.runtime.gate.failures["start"] = ContainerStartError("bad working directory")
    for _ in range(3):
        failure = (await world.run()).failure
        assert failure is not None
        assert failure.reason is FailureReason.START_FAILED
        assert failure.message.endswith("bad working directory")
    await world.idle()


async def test_no_execution_fails_because_none_can_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    refused = fail_ahead(world, monkeypatch, ContainerStartError("no space left"))
    for _ in range(4):
        assert (await world.run()).state is S.SUCCEEDED
    await asyncio.sleep(10 * LONGEST_PAUSE)
    assert 5 < refused[0] < 20
    assert [each["event"] for each in logged].count("no containers made ahead") == 1
    monkeypatch.undo()
    await full(world)


async def test_a_defect_is_logged_and_fails_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    fail_ahead(world, monkeypatch, ValueError("a defect"))
    assert (await world.run()).state is S.SUCCEEDED
    await settle()
    assert "making a container ahead broke" in [each["event"] for each in logged]


async def test_those_that_are_missing_are_made_when_the_engine_is_back(world: World) -> None:
    await world.deployed(program=says(b"x"), scaling=TWO)
    world.runtime.gate.away = True
    started = await world.start()
    await until(lambda: not world.engines.ready)
    world.runtime.gate.away = False
    assert (await world.ended(started)).state is S.SUCCEEDED
    await full(world)


async def test_one_that_resists_is_left_to_the_sweeper(world: World) -> None:
    await world.deployed(scaling=TWO)
    world.runtime.gate.failures["remove"] = RuntimeUnavailableError("busy")
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    await settle()
    assert len(waiting(world)) == 2
    world.runtime.gate.failures.clear()
    assert await world.services.sweeper.sweep() == 2


# -- crashes, and sweeps -------------------------------------------------------------------------


async def restarted(world: World) -> World:
    new = await world.restart()
    await new.services.recovery.run()
    await new.services.instances.open()
    return new


async def test_those_of_a_process_that_died_are_made_anew(world: World) -> None:
    await world.deployed(scaling=TWO)
    old = waiting(world)
    new = await restarted(world)
    await until(lambda: len(waiting(new)) == 4)
    assert await new.services.sweeper.sweep() == 2
    assert not old.keys() & waiting(new).keys()
    await new.services.instances.close()
    await new.engines.close()


@pytest.mark.parametrize("moment", ["rename", "attach", "start"])
async def test_a_process_died_between_taking_one_and_its_start(world: World, moment: str) -> None:
    await world.deployed(program=says(b"once"), scaling=TWO)
    held = world.runtime.gate.hold(moment)
    started = await world.start()
    await world.runtime.gate.seen(moment).wait()
    await settle()
    new = await restarted(world)
    held.set()
    execution = await new.ended(started)
    assert (execution.state, output_of(new.journal(started))) == (S.SUCCEEDED, b"once")
    await new.idle()
    await settle()
    await new.services.sweeper.sweep()
    await full(new)
    assert execution.attempt == 1
    await new.services.instances.close()
    await new.engines.close()


async def test_one_that_runs_is_adopted_by_the_next_process(world: World) -> None:
    go_on = asyncio.Event()

    async def story(process: FakeProcess) -> int:
        await process.write(b"some ")
        await go_on.wait()
        await process.write(b"words")
        return 0

    await world.deployed(program=story, scaling=TWO)
    name = await world.start()
    active = await world.reaches(name, S.RUNNING)
    container = active.container_id
    await active.journal.flush()
    new = await restarted(world)
    await new.reaches(name, S.RUNNING)
    await new.services.sweeper.sweep()
    assert container in new.runtime.containers.present
    go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    assert output_of(new.journal(name)) == b"some words"
    await full(new)
    await new.services.instances.close()
    await new.engines.close()


async def test_a_sweep_spares_what_waits_is_made_or_is_taken(world: World) -> None:
    await world.deployed(program=sleep, scaling=TWO)
    held = world.runtime.gate.hold("rename")
    name = await world.start()
    await world.runtime.gate.seen("rename").wait()
    assert await world.services.sweeper.sweep() == 0, "it has not got its new name yet"
    held.set()
    await world.reaches(name, S.RUNNING)
    assert await world.services.sweeper.sweep() == 0
    assert len(world.runtime.containers.present) == 2
