"""A new process over an old store and an old engine: all goes on, or is told to be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.errors import RuntimeUnavailableError, StorageError, UnavailableError
from skybridge_server.models.executions import ExecutionState, Failure, FailureReason, Lease
from skybridge_server.models.functions import MIB, Scaling
from skybridge_server.models.journal import OutputStream
from skybridge_server.models.names import ExecutionName
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.services import labels
from skybridge_server.services.slots import AHEAD
from skybridge_server.services.sweeper import STOP_PATIENCE
from tests.fakes.runtime import FakeAttachment, FakeProcess, says, sleep
from tests.unit.services.world import SERVER_ID, World, gaps_of, key, output_of, settle, until

S = ExecutionState
ONE = Scaling(max_concurrency=1, max_queue_depth=2)


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
    running, *waiting = names
    await new.services.executions.cancel(running)
    assert [(await new.ended(name)).state for name in waiting] == [S.SUCCEEDED, S.SUCCEEDED]
    await new.engines.close()


async def test_what_waited_waits_on_in_the_store(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1, max_queue_depth=100))
    running, *waiting = [await world.start() for _ in range(50)]
    await world.reaches(running, S.RUNNING)
    world.runtime.containers.program = says()
    new = await restart(world)
    await new.services.backlog.idle()
    assert sum(1 for _ in new.services.registry) == 1 + AHEAD
    assert new.services.system.info().queued_executions == 49
    await new.services.executions.cancel(running)
    for name in waiting:
        assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


# -- what had begun ------------------------------------------------------------------------------


class Story:
    """A program that tells the rest once it is told to go on."""

    def __init__(self, code: int = 0) -> None:
        self.go_on = asyncio.Event()
        self._code = code

    async def __call__(self, process: FakeProcess) -> int:
        await process.write(b"some ")
        await process.write(b"err", OutputStream.STDERR)
        await self.go_on.wait()
        await process.write(b"words")
        return self._code


async def tell_half(world: World, story: Story, **fields: Any) -> ExecutionName:
    """Start a story, and wait until its first half is stored."""
    await world.deployed(program=story)
    name = await world.start(**fields)
    active = await world.reaches(name, S.RUNNING)
    await until(lambda: active.journal.kept[OutputStream.STDERR] == 3)
    await active.journal.flush()
    return name


def check_told(world: World, name: ExecutionName) -> None:
    journal = world.journal(name)
    assert output_of(journal) == b"some words"
    assert output_of(journal, OutputStream.STDERR) == b"err"
    assert not gaps_of(journal)


async def check_lost(world: World, name: ExecutionName, why: str) -> None:
    execution = await world.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.LOST
    assert why in execution.failure.message
    assert len(gaps_of(world.journal(name))) == 2
    await world.idle()
    assert not world.runtime.containers.present


@pytest.mark.parametrize("code", [0, 3])
async def test_what_runs_goes_on(world: World, code: int) -> None:
    story = Story(code)
    name = await tell_half(world, story, input=b"given")
    start_time = world.repositories.executions.rows[name].start_time
    new = await restart(world)
    assert new.services.system.info().running_executions == 1
    assert await new.services.sweeper.sweep() == 0
    story.go_on.set()
    execution = await new.ended(name)
    assert (execution.state, execution.exit_code) == ((S.FAILED if code else S.SUCCEEDED), code)
    assert execution.start_time == start_time
    assert execution.timings.start is not None
    assert execution.timings.run is not None
    check_told(new, name)
    await new.idle()
    assert not new.runtime.containers.present
    await new.engines.close()


async def test_what_ended_meanwhile_is_collected(world: World) -> None:
    story = Story(3)
    name = await tell_half(world, story)
    for task in world.services.registry._tasks.values():
        task.cancel()
    world.active(name).container_id = ""
    story.go_on.set()
    (container,) = world.runtime.containers.present.values()
    await container.ended.wait()
    new = await restart(world)
    assert (await new.ended(name)).exit_code == 3
    check_told(new, name)
    await new.engines.close()


async def test_it_goes_on_after_any_number_of_crashes(world: World) -> None:
    story = Story()
    name = await tell_half(world, story)
    new = world
    for _ in range(3):
        new = await restart(new)
        await new.reaches(name, S.RUNNING)
        await settle()
    story.go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    check_told(new, name)
    await new.engines.close()


async def test_what_was_never_started_is_started(world: World) -> None:
    await world.deployed(program=says(b"once"))
    release = world.runtime.gate.hold("start")
    name = await world.start(input=b"input")
    await world.runtime.gate.seen("start").wait()
    assert world.repositories.executions.rows[name].state is S.STARTING
    new = await restart(world)
    world.runtime.gate.held.clear()
    release.set()
    execution = await new.ended(name)
    assert execution.state is S.SUCCEEDED
    assert output_of(new.journal(name)) == b"once"
    await new.idle()
    assert len(world.runtime.containers.created) == 2
    assert not world.runtime.containers.present
    await new.engines.close()


async def test_what_was_started_just_before_the_crash_goes_on(world: World) -> None:
    """The engine knows that it runs, and the store does not."""
    await world.deployed(program=says(b"once"))
    name = await world.start()
    await world.runtime.gate.seen("start").wait()
    world.disk.hold("append")
    await settle()
    world.disk.held.clear()
    assert world.repositories.executions.rows[name].state is S.STARTING
    new = await restart(world)
    execution = await new.ended(name)
    assert execution.state is S.SUCCEEDED
    assert execution.start_time is not None
    assert output_of(new.journal(name)) == b"once"
    assert len(world.runtime.containers.created) == 1
    await new.engines.close()


async def test_half_an_input_is_worse_than_none(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start(input=bytes(MIB))
    await world.reaches(name, S.RUNNING)
    await settle()
    new = await restart(world)
    await check_lost(new, name, "all of the input")
    await new.engines.close()


async def test_what_a_caller_writes_to_is_lost(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start(interactive=True)
    await world.reaches(name, S.RUNNING)
    new = await restart(world)
    await check_lost(new, name, "its caller")
    await new.engines.close()


async def test_what_was_being_stopped_is_stopped(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    active = await world.reaches(name, S.RUNNING)
    active.stop(FailureReason.EXECUTION_TIMEOUT, "it took too long")
    await active.journal.flush()
    new = await restart(world)
    execution = await new.ended(name)
    assert execution.state is S.TIMED_OUT
    assert execution.failure == Failure(FailureReason.EXECUTION_TIMEOUT, "it took too long")
    await new.idle()
    assert not world.runtime.containers.present
    await new.engines.close()


async def test_a_container_that_is_gone_tells_nothing(world: World) -> None:
    name = await tell_half(world, Story())
    new_containers = world.runtime.containers.present
    for task in world.services.registry._tasks.values():
        task.cancel()
    world.active(name).container_id = ""
    new_containers.clear()
    new = await restart(world)
    await check_lost(new, name, "its container is gone")
    await new.engines.close()


async def test_what_ended_while_its_engine_was_away_is_lost(world: World) -> None:
    story = Story()
    name = await tell_half(world, story)
    for task in world.services.registry._tasks.values():
        task.cancel()
    world.active(name).container_id = ""
    story.go_on.set()
    (container,) = world.runtime.containers.present.values()
    await container.ended.wait()
    world.runtime.containers.witnessed = False
    new = await restart(world)
    await check_lost(new, name, "may lack its end")
    assert (await new.ended(name)).exit_code == 0
    await new.engines.close()


async def test_a_log_that_lacks_something_is_not_believed(world: World) -> None:
    story = Story()
    name = await tell_half(world, story)
    (container,) = world.runtime.containers.present.values()
    container.process.recorded[0] = (OutputStream.STDOUT, b"other")
    new = await restart(world)
    await check_lost(new, name, "other output than was seen")
    await new.engines.close()


async def test_an_adopted_execution_can_be_cancelled(world: World) -> None:
    name = await tell_half(world, Story())
    new = await restart(world)
    await new.services.executions.cancel(name)
    assert (await new.ended(name)).state is S.CANCELLED
    await new.engines.close()


async def test_the_time_limit_goes_on(world: World) -> None:
    name = await tell_half(world, Story())
    execution = world.repositories.executions.rows[name]
    assert execution.start_time is not None
    long_ago = execution.start_time - timedelta(days=1)
    world.repositories.executions.rows[name] = replace(execution, start_time=long_ago)
    new = await restart(world)
    assert (await new.ended(name)).state is S.TIMED_OUT
    await new.engines.close()


async def test_an_engine_that_is_away_at_the_start_is_waited_for(world: World) -> None:
    story = Story()
    name = await tell_half(world, story)
    waiting = await world.start()
    world.runtime.gate.away = True
    new = await restart(world)
    await asyncio.sleep(10)
    assert not new.active(name).journal.execution.state.final
    world.runtime.gate.away = False
    story.go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    assert (await new.ended(waiting)).state is S.SUCCEEDED
    check_told(new, name)
    await new.engines.close()


async def test_an_engine_that_comes_back_under_us_changes_nothing(world: World) -> None:
    story = Story()
    name = await tell_half(world, story)
    world.runtime.gate.away = True
    story.go_on.set()
    await until(lambda: not world.engines.ready)
    await asyncio.sleep(5)
    world.runtime.gate.away = False
    assert (await world.ended(name)).state is S.SUCCEEDED
    check_told(world, name)


async def test_others_that_hold_a_lease_keep_it(world: World) -> None:
    name = await tell_half(world, Story())
    world.services.recovery._server_id = "server-2"
    before = world.repositories.executions.rows[name]
    await world.services.recovery.run()
    assert world.repositories.executions.rows[name] == before


async def test_who_has_lost_the_lease_lets_go(world: World) -> None:
    """It neither ends the execution nor touches the container: somebody else does."""
    story = Story()
    name = await tell_half(world, story)
    taken = replace(world.repositories.executions.rows[name], lease=Lease(7, "server-2"))
    world.repositories.executions.rows[name] = taken
    story.go_on.set()
    await until(lambda: world.services.registry.get(name) is None)
    await world.idle()
    assert world.repositories.executions.rows[name] == taken
    assert len(world.runtime.containers.present) == 1


# -- what waited for more than a place -----------------------------------------------------------


async def test_what_waited_for_a_caller_that_is_cut_off_is_lost(world: World) -> None:
    await world.deployed(program=sleep, scaling=ONE)
    await world.reaches(await world.start(), S.RUNNING)
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


async def test_what_the_engine_tells_of_is_swept_at_once(world: World) -> None:
    await world.deployed(program=says())
    await world.services.sweeper.open()
    for _ in range(2):
        await asyncio.sleep(2)
        world.runtime.containers.program = sleep
        orphaned = await leave_container(world, **orphan())
        await world.runtime.containers.start(orphaned)
        await world.runtime.containers.signal(orphaned, "SIGKILL")
        await asyncio.sleep(0.1)
        assert orphaned not in world.runtime.containers.present
        world.runtime.containers.fall_silent()  # and is listened to again
    await world.services.sweeper.close()


async def test_what_was_missed_while_the_engine_was_not_heard_is_swept(world: World) -> None:
    await world.deployed(program=says())
    world.runtime.gate.failures["container_ends"] = RuntimeUnavailableError("busy")
    await world.services.sweeper.open()
    await asyncio.sleep(5)
    await leave_container(world, **orphan())
    world.runtime.gate.failures.clear()
    await asyncio.sleep(2)
    assert not world.runtime.containers.present
    await world.services.sweeper.close()


async def test_a_connection_that_breaks_without_a_sign_is_noticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(_attachment: FakeAttachment) -> AsyncIterator[tuple[OutputStream, bytes]]:
        await asyncio.Event().wait()
        yield OutputStream.STDOUT, b""

    monkeypatch.setattr(FakeAttachment, "output", silence)
    await world.services.sweeper.open()
    await asyncio.sleep(1)
    await world.deployed(program=says(b"all of it"))
    execution = await world.run()
    assert execution.state is S.SUCCEEDED
    assert output_of(world.journal(execution.name)) == b"all of it"
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


async def test_what_was_not_swept_yet_is_swept_at_a_stop(world: World) -> None:
    await world.deployed(program=says())
    left = [await leave_container(world, **orphan()) for _ in range(3)]
    world.runtime.containers.program = sleep
    running = await world.reaches(await world.start(), S.RUNNING)
    removal = world.runtime.gate.hold("remove")
    world.runtime.gate.entered.clear()
    await world.services.sweeper.open()
    await world.runtime.gate.seen("remove").wait()
    assert {*left} < {*world.runtime.containers.present}
    asyncio.get_running_loop().call_later(1, removal.set)
    await world.services.sweeper.close()
    assert {*world.runtime.containers.present} == {running.container_id}


async def test_the_last_sweep_does_not_hold_up_the_stop_for_long(world: World) -> None:
    await world.deployed(program=says())
    await leave_container(world, **orphan())
    hanging = world.runtime.gate.hold("remove")
    world.runtime.gate.entered.clear()
    await world.services.sweeper.open()
    await world.runtime.gate.seen("remove").wait()
    async with asyncio.timeout(STOP_PATIENCE + 1):
        await world.services.sweeper.close()
    hanging.set()
    assert await world.services.sweeper.sweep() == 1


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


async def test_what_runs_longer_is_handed_over(world: World) -> None:
    story = Story()
    name = await tell_half(world, story, input=b"given")
    await world.services.registry.close(1, ShutdownPolicy.HANDOVER)
    left = world.repositories.executions.rows[name]
    assert (left.state, left.lease) == (S.RUNNING, Lease(2))
    assert len(world.runtime.containers.present) == 1
    new = await restart(world)
    story.go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    check_told(new, name)
    await new.engines.close()


async def test_a_server_that_hangs_up_does_not_blame_the_caller(world: World) -> None:
    story = Story()
    await world.deployed(program=story)
    calling = asyncio.create_task(world.execute())
    await until(lambda: bool([*world.services.registry]))
    name = next(iter(world.services.registry)).name
    await world.reaches(name, S.RUNNING)
    world.services.registry.hang_up()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await world.services.registry.close(1, ShutdownPolicy.HANDOVER)
    new = await restart(world)
    story.go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


async def test_a_stop_does_not_wait_for_those_who_wait_for_what_is_in_the_store(
    world: World,
) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    for _ in range(2 * AHEAD):
        await world.start()
    name = await world.start(key=key())
    executions = world.services.executions
    watch = aiter(executions.watch(name, after=1, heartbeat=timedelta(hours=10)))
    waiting = [
        asyncio.ensure_future(world.execute(key=key())),
        asyncio.ensure_future(executions.wait(name, timedelta(hours=10))),
        asyncio.ensure_future(anext(watch)),
    ]
    await settle()
    assert not any(each.done() for each in waiting)
    world.services.registry.hang_up()
    for each in (*waiting, executions.wait(name, timedelta(hours=10))):
        with pytest.raises(UnavailableError) as caught:
            await each
        assert caught.value.reason == "SERVER_STOPPING"


async def test_what_is_starting_is_handed_over_once_it_runs(world: World) -> None:
    story = Story()
    await world.deployed(program=story)
    release = world.runtime.gate.hold("start")
    name = await world.start()
    await world.runtime.gate.seen("start").wait()
    closing = asyncio.create_task(world.services.registry.close(1, ShutdownPolicy.HANDOVER))
    await asyncio.sleep(2)
    release.set()
    await closing
    assert world.repositories.executions.rows[name].state is S.RUNNING
    new = await restart(world)
    story.go_on.set()
    assert (await new.ended(name)).state is S.SUCCEEDED
    await new.engines.close()


@pytest.mark.parametrize("fields", [{"interactive": True}, {"input": bytes(MIB)}])
async def test_what_needs_this_process_cannot_be_handed_over(
    world: World, fields: dict[str, Any]
) -> None:
    await world.deployed(program=sleep)
    name = await world.start(**fields)
    await world.reaches(name, S.RUNNING)
    await world.services.registry.close(1, ShutdownPolicy.HANDOVER)
    assert (await world.ended(name)).state is S.CANCELLED
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
    assert (await new.ended(name)).state is S.CANCELLED
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
