"""A new process over an old store and an old engine: what waited goes on, the rest is settled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from skybridge_server.errors import RuntimeUnavailableError, StorageError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Scaling
from skybridge_server.models.journal import Gap, GapReason, OutputStream
from skybridge_server.models.names import ExecutionName
from skybridge_server.services import labels
from tests.fakes.runtime import FakeProcess, says, sleep
from tests.unit.services.world import SERVER_ID, World, gaps_of, output_of, settle, until

S = ExecutionState
ONE = Scaling(max_concurrency=1, max_queue_depth=2)


async def talks(process: FakeProcess) -> int:
    await process.write(b"some words")
    return await sleep(process)


async def restart(world: World) -> World:
    new = await world.restart()
    await new.services.recovery.run()
    return new


async def test_what_waited_goes_on_in_its_order(world: World) -> None:
    await world.deployed(program=sleep, scaling=ONE)
    running, *waiting = [await world.start(input=b"%d" % i) for i in range(3)]
    await world.reaches(running, S.RUNNING)

    async def tell(process: FakeProcess) -> int:
        await process.write(await process.read())
        return 0

    world.runtime.containers.program = tell
    new = await restart(world)
    ended = [await new.ended(name) for name in waiting]
    assert [execution.state for execution in ended] == [S.SUCCEEDED, S.SUCCEEDED]
    assert [output_of(new.journal(name)) for name in waiting] == [b"1", b"2"]
    assert ended[0].end_time is not None
    assert ended[1].end_time is not None
    assert ended[0].end_time <= ended[1].end_time
    assert new.services.system.info().queued_executions == 0
    await new.engines.close()


async def test_more_may_go_on_than_may_come(world: World) -> None:
    """They were accepted; limits that were lowered meanwhile do not take that back."""
    await world.deployed(program=sleep, scaling=ONE)
    names = [await world.start() for _ in range(3)]
    await settle()
    for name, revision in world.repositories.revisions.rows.items():
        spec = replace(revision.spec, scaling=Scaling(1, 0))
        world.repositories.revisions.rows[name] = replace(revision, spec=spec)
    world.runtime.containers.program = says()
    new = await restart(world)
    assert [(await new.ended(name)).state for name in names] == [S.FAILED, S.SUCCEEDED, S.SUCCEEDED]
    await new.engines.close()


@pytest.mark.parametrize("state", [S.STARTING, S.RUNNING, S.CANCELLING])
async def test_what_ran_is_lost_and_says_so(world: World, state: ExecutionState) -> None:
    await world.deployed(program=talks)
    if state is S.STARTING:
        world.runtime.gate.hold("start")
    name = await world.start()
    active = await world.reaches(name, S.STARTING if state is S.STARTING else S.RUNNING)
    await settle()
    if state is S.CANCELLING:
        active.stop(FailureReason.CANCELLED, "")
    await active.journal.flush()
    new = await restart(world)

    execution = await new.ended(name)
    assert execution.state is S.FAILED
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.LOST
    assert state.name in execution.failure.message
    kept = 0 if state is S.STARTING else len(b"some words")
    assert execution.stdout_bytes == kept
    assert gaps_of(new.journal(name)) == [
        Gap(OutputStream.STDOUT, kept, None, GapReason.RUNTIME_UNAVAILABLE),
        Gap(OutputStream.STDERR, 0, None, GapReason.RUNTIME_UNAVAILABLE),
    ]
    assert new.services.registry.get(name) is None
    world.runtime.gate.held.clear()
    assert await new.services.sweeper.sweep() == 1
    assert not world.runtime.containers.present
    await new.engines.close()


async def test_what_waited_for_a_caller_that_is_cut_off_is_lost(world: World) -> None:
    await world.deployed(program=sleep, scaling=ONE)
    await world.start()
    name = await world.start(interactive=True)
    new = await restart(world)
    execution = await new.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.LOST
    assert "before the execution ran" in execution.failure.message
    assert not gaps_of(new.journal(name))
    await new.engines.close()


async def test_what_waited_for_a_runtime_that_is_gone_is_lost(world: World) -> None:
    await world.deployed(program=sleep, scaling=ONE)
    await world.start()
    name = await world.start()
    for number, revision in world.repositories.revisions.rows.items():
        spec = replace(revision.spec, runtime="gone")
        world.repositories.revisions.rows[number] = replace(revision, spec=spec)
    new = await restart(world)
    execution = await new.ended(name)
    assert execution.failure is not None
    assert "no runtime 'gone'" in execution.failure.message
    assert new.services.system.info().queued_executions == 0
    await new.engines.close()


async def test_what_has_ended_stays_as_it_is(world: World) -> None:
    await world.deployed(program=says(b"x"))
    execution = await world.run()
    new = await restart(world)
    assert await new.ended(execution.name) == execution
    await new.engines.close()


# -- sweeping -----------------------------------------------------------------------------------


async def leave_container(world: World, **more: str) -> str:
    """Make a container that nobody knows, with these labels."""
    name = await world.run()
    spec = replace(world.runtime.containers.created[-1], labels=more)
    del name
    return await world.runtime.containers.create(spec)


def orphan(server_id: str = SERVER_ID) -> dict[str, str]:
    name = ExecutionName("default", "long-gone")
    return {labels.SERVER: server_id, labels.EXECUTION: str(name)}


async def test_only_our_own_orphans_are_removed(world: World) -> None:
    await world.deployed(program=says())
    mine = await leave_container(world, **orphan())
    unnamed = await leave_container(world, **{labels.SERVER: SERVER_ID})
    others = await leave_container(world, **orphan("server-2"))
    strangers = await leave_container(world)
    world.runtime.containers.program = sleep
    running = await world.reaches(await world.start(), S.RUNNING)

    assert await world.services.sweeper.sweep() == 2
    left = set(world.runtime.containers.present)
    assert left == {others, strangers, running.container_id}
    assert not {mine, unnamed} & left


async def test_one_container_that_resists_does_not_protect_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deployed(program=says())
    stubborn = await leave_container(world, **orphan())
    await leave_container(world, **orphan())
    remove = world.runtime.containers.remove

    async def resist(container_id: str) -> None:
        if container_id == stubborn:
            raise RuntimeUnavailableError("device busy")
        await remove(container_id)

    monkeypatch.setattr(world.runtime.containers, "remove", resist)
    assert await world.services.sweeper.sweep() == 1
    assert set(world.runtime.containers.present) == {stubborn}


async def test_sweeps_come_every_minute_and_when_the_engine_is_back(world: World) -> None:
    await world.deployed(program=says())
    await world.services.sweeper.open()
    await asyncio.sleep(1)
    await leave_container(world, **orphan())
    await asyncio.sleep(50)
    assert world.runtime.containers.present
    await asyncio.sleep(10)
    assert not world.runtime.containers.present

    await leave_container(world, **orphan())
    world.runtime.gate.away = True
    await until(lambda: not world.engines.ready)
    world.runtime.gate.away = False
    await until(lambda: world.engines.ready)
    await asyncio.sleep(0.1)
    assert not world.runtime.containers.present
    await world.services.sweeper.close()


async def test_a_sweep_that_breaks_is_not_the_last(
    world: World, logged: list[dict[str, object]]
) -> None:
    await world.deployed(program=says())
    await leave_container(world, **orphan())
    world.runtime.gate.failures["list"] = ValueError("a defect")
    await world.services.sweeper.open()
    await asyncio.sleep(1)
    assert "sweep broke" in [entry["event"] for entry in logged]
    world.runtime.gate.failures["list"] = RuntimeUnavailableError("busy")
    await asyncio.sleep(60)
    world.runtime.gate.failures.clear()
    await asyncio.sleep(60)
    assert not world.runtime.containers.present
    await world.services.sweeper.close()


# -- stopping the server ------------------------------------------------------------------------


async def test_running_executions_may_end_within_the_grace(world: World) -> None:
    async def program(_process: FakeProcess) -> int:
        await asyncio.sleep(5)
        return 0

    await world.deployed(program=program, scaling=ONE)
    running, waiting = await world.start(), await world.start()
    await world.reaches(running, S.RUNNING)
    await world.services.registry.close(10)
    assert (await world.ended(running)).state is S.SUCCEEDED
    assert world.repositories.executions.rows[waiting].state is S.QUEUED
    assert len(world.runtime.containers.created) == 1
    assert not world.runtime.containers.present


async def test_what_runs_longer_is_stopped(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    await world.services.registry.close(10)
    execution = await world.ended(name)
    assert execution.state is S.CANCELLED
    assert execution.failure is not None
    assert execution.failure.message == "the server was stopped"
    assert not world.runtime.containers.present


@pytest.mark.parametrize("held", ["create", "attach", "start", "wait", "remove"])
async def test_a_stop_of_the_server_in_the_middle_of(world: World, held: str) -> None:
    await world.deployed(program=sleep if held == "wait" else says())
    release = world.runtime.gate.hold(held)
    name = await world.start()
    await world.runtime.gate.seen(held).wait()
    closing = asyncio.create_task(world.services.registry.close(1))
    await asyncio.sleep(10)
    release.set()
    await closing
    assert (await world.ended(name)).state.final
    assert not world.runtime.containers.present


@pytest.mark.parametrize("held", ["signal", "remove"])
async def test_an_engine_that_hangs_does_not_hold_up_the_stop(world: World, held: str) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    release = world.runtime.gate.hold(held)
    async with asyncio.timeout(60):
        await world.services.registry.close(1)
    release.set()
    new = await restart(world)
    assert (await new.ended(name)).state is (S.FAILED if held == "signal" else S.CANCELLED)
    await new.services.sweeper.sweep()
    assert not world.runtime.containers.present
    await new.engines.close()


async def test_nothing_is_launched_once_the_server_stops(world: World) -> None:
    await world.deployed(program=says())
    release = world.disk.hold("add")
    starting = asyncio.create_task(world.start())
    await settle()
    await world.services.registry.close(0)
    release.set()
    name = await starting
    assert world.repositories.executions.rows[name].state is S.QUEUED
    assert not world.runtime.containers.created
    new = await restart(world)
    assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


async def test_a_store_that_is_gone_does_not_hold_up_the_stop(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    world.disk.failures["append"] = StorageError("disk full")
    async with asyncio.timeout(60):
        await world.services.registry.close(1)
    assert not world.runtime.containers.present
    world.disk.failures.clear()
    new = await restart(world)
    execution = await new.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.LOST
    await new.engines.close()


async def test_stopping_twice_does_no_harm(world: World) -> None:
    await world.deployed(program=sleep)
    await world.reaches(await world.start(), S.RUNNING)
    await world.services.registry.close(0)
    await world.services.registry.close(0)
