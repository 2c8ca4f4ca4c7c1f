"""Every way in which an execution can end, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    EntryPointError,
    RuntimeUnavailableError,
    StaleContainerError,
    StorageError,
)
from skybridge_server.models.executions import ExecutionState, FailureReason, Usage
from skybridge_server.models.functions import Network, Resources, Scaling, Timeouts
from skybridge_server.models.journal import GapReason, OutputStream
from tests.fakes.runtime import FakeProcess, OutOfMemoryError, Program, says, sleep
from tests.unit.services.world import World, gaps_of, minutes, output_of, settle, until

SECOND = timedelta(seconds=1)
SHORT = Timeouts(queue=SECOND, start=SECOND, execution=SECOND, shutdown_grace=SECOND)


async def _needs_too_much(_process: FakeProcess) -> int:
    raise OutOfMemoryError


async def _floods(process: FakeProcess) -> int:
    await process.write(b"x" * 5000)
    return 0


async def _obeys(process: FakeProcess) -> int:
    await process.signalled("SIGTERM")
    return 0


SUCCEEDS = says()


@dataclass(frozen=True)
class Case:
    """What an engine and a program do, and what it is to an execution."""

    reason: FailureReason | None
    message: str = ""
    program: Program = SUCCEEDS
    fails: dict[str, Exception] | None = None
    spec: dict[str, Any] | None = None
    prepare: Callable[[World], object] = id
    signal: int = 0
    exit_code: int | None = None


def _no_entry_point(world: World) -> None:
    world.runtime.containers.program = None


def _no_image(world: World) -> None:
    world.runtime.images.present.clear()


def _oom_in_usage(world: World) -> None:
    world.runtime.used = Usage(oom_killed=True)


CASES = {
    "success": Case(None, exit_code=0),
    "exit code": Case(FailureReason.EXIT_CODE, "exit code 3", says(code=3), exit_code=3),
    "exit code with a hint": Case(
        FailureReason.EXIT_CODE,
        "exit code 1; it has no network; spec.network EGRESS opens it",
        says(stderr=b"curl: (6) Could not resolve host: example.com", code=1),
        spec={"network": Network.NONE},
        exit_code=1,
    ),
    "signal": Case(
        FailureReason.SIGNAL, "SIGSEGV ended the function", says(code=139), signal=11, exit_code=139
    ),
    "kill from inside": Case(
        FailureReason.SIGNAL, "SIGKILL ended", says(code=137), signal=9, exit_code=137
    ),
    "no signal has this number": Case(
        FailureReason.EXIT_CODE, "exit code 255", says(code=255), exit_code=255
    ),
    "out of memory": Case(
        FailureReason.OUT_OF_MEMORY,
        "raise spec.resources.memory_bytes",
        _needs_too_much,
        signal=9,
        exit_code=137,
    ),
    "a child out of memory": Case(
        FailureReason.OUT_OF_MEMORY,
        "was killed (exit code 1)",
        says(code=1),
        prepare=_oom_in_usage,
        exit_code=1,
    ),
    "a child out of memory, and all went well": Case(None, prepare=_oom_in_usage, exit_code=0),
    "output limit": Case(
        FailureReason.OUTPUT_LIMIT,
        "wrote 5000 bytes to stdout and only the first 1024 were kept",
        _floods,
        spec={"resources": Resources(output_bytes=1024)},
        exit_code=0,
    ),
    "log limit": Case(
        None,
        program=says(stderr=b"x" * 5000),
        spec={"resources": Resources(output_bytes=1024)},
        exit_code=0,
    ),
    "image gone": Case(FailureReason.IMAGE_UNAVAILABLE, "no image", prepare=_no_image),
    "no entry point": Case(FailureReason.ENTRY_POINT, "no such command", prepare=_no_entry_point),
    "bad entry point": Case(
        FailureReason.ENTRY_POINT,
        "not executable",
        fails={"start": EntryPointError("not executable")},
    ),
    "create refused": Case(
        FailureReason.START_FAILED, "no space", fails={"create": ContainerStartError("no space")}
    ),
    "start refused": Case(
        FailureReason.START_FAILED, "bad cgroup", fails={"start": ContainerStartError("bad cgroup")}
    ),
    "engine lost at create": Case(
        FailureReason.RUNTIME_UNAVAILABLE, "gone", fails={"create": RuntimeUnavailableError("gone")}
    ),
    "engine lost at attach": Case(
        FailureReason.RUNTIME_UNAVAILABLE, "gone", fails={"attach": RuntimeUnavailableError("gone")}
    ),
    "engine lost at start": Case(
        FailureReason.RUNTIME_UNAVAILABLE, "gone", fails={"start": RuntimeUnavailableError("gone")}
    ),
    "engine lost while it runs": Case(
        FailureReason.RUNTIME_UNAVAILABLE,
        "went away while the function ran: gone",
        fails={"wait": RuntimeUnavailableError("gone")},
    ),
    "engine stopped, and its containers with it": Case(
        FailureReason.RUNTIME_UNAVAILABLE,
        "gone",
        says(code=137),
        fails={"inspect": RuntimeUnavailableError("gone")},
    ),
    "removed before attach": Case(
        FailureReason.CONTAINER_REMOVED, "does not exist", fails={"attach": ContainerGoneError("c")}
    ),
    "removed while it runs": Case(
        FailureReason.CONTAINER_REMOVED, "does not exist", fails={"wait": ContainerGoneError("c")}
    ),
    "a defect of ours": Case(
        FailureReason.INTERNAL, "internal error of the server", fails={"start": ValueError("oops")}
    ),
    "a defect while it runs": Case(
        FailureReason.INTERNAL, "internal error of the server", fails={"wait": ValueError("oops")}
    ),
    "start timeout": Case(
        FailureReason.START_TIMEOUT,
        "within spec.timeouts.start (1 s)",
        spec={"timeouts": SHORT},
        prepare=lambda world: world.runtime.gate.hold("start"),
    ),
    "execution timeout, obeyed": Case(
        FailureReason.EXECUTION_TIMEOUT,
        "ran longer than 1 s: raise spec.timeouts.execution",
        _obeys,
        spec={"timeouts": SHORT},
        exit_code=0,
    ),
    "execution timeout, ignored": Case(
        FailureReason.EXECUTION_TIMEOUT, "", sleep, spec={"timeouts": SHORT}, exit_code=137
    ),
    "it cannot even be killed": Case(
        FailureReason.EXECUTION_TIMEOUT,
        "",
        sleep,
        spec={"timeouts": SHORT},
        fails={"signal": RuntimeUnavailableError("stuck")},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_outcomes(world: World, case: Case) -> None:
    await world.deployed(program=case.program, **(case.spec or {}))
    case.prepare(world)
    world.runtime.gate.failures.update(case.fails or {})

    execution = await world.run()

    failure = execution.failure
    assert (failure.reason if failure else None) == case.reason
    assert execution.state is (case.reason.state if case.reason else ExecutionState.SUCCEEDED)
    assert case.message in (failure.message if failure else "")
    assert (failure.signal if failure else 0) == case.signal
    assert execution.exit_code == case.exit_code
    assert execution.end_time is not None
    assert execution.timings.total is not None
    await world.idle()
    assert not world.runtime.containers.present
    assert (world.services.system.info().running_executions, [*world.services.registry]) == (0, [])


def test_every_reason_is_reached() -> None:
    elsewhere = {
        FailureReason.QUEUE_TIMEOUT,
        FailureReason.DEADLINE,
        FailureReason.CANCELLED,
        FailureReason.DISCONNECTED,
        FailureReason.LOST,
        # What only a warm instance can do.
        FailureReason.FUNCTION_ERROR,
        FailureReason.PROTOCOL_ERROR,
        FailureReason.INSTANCE_DIED,
        FailureReason.INIT_ERROR,
    }
    assert {case.reason for case in CASES.values() if case.reason} | elsewhere == {*FailureReason}


async def test_what_a_successful_execution_looks_like(world: World) -> None:
    world.runtime.used = Usage(timedelta(seconds=2), 4096)
    await world.deployed(program=says(b"out", b"err"))
    execution = await world.run(labels={"a": "b"})

    assert (execution.stdout_bytes, execution.stderr_bytes) == (3, 3)
    assert execution.usage == Usage(timedelta(seconds=2), 4096)
    assert execution.cold_start
    assert execution.start_time is not None
    assert None not in (execution.timings.queue, execution.timings.start, execution.timings.run)
    assert execution.labels == {"a": "b"}
    events = world.journal(execution.name)
    assert (output_of(events), output_of(events, OutputStream.STDERR)) == (b"out", b"err")
    assert not gaps_of(events)


async def test_input_goes_in_and_ends(world: World) -> None:
    async def shout(process: FakeProcess) -> int:
        while data := await process.read():
            await process.write(data.upper())
        return 0

    await world.deployed(program=shout)
    execution = await world.run(input=b"hello")
    assert output_of(world.journal(execution.name)) == b"HELLO"


async def test_a_function_need_not_read_its_input(world: World) -> None:
    await world.deployed(program=says(b"done"))
    execution = await world.run(input=b"x" * 1_000_000)
    assert execution.state is ExecutionState.SUCCEEDED


async def test_a_container_that_cannot_join_what_it_was_made_for_is_made_anew(
    world: World,
) -> None:
    gate, containers = world.runtime.gate, world.runtime.containers
    gate.failures["start"] = StaleContainerError("the network is gone")
    removing = gate.hold("remove")
    name = await world.start(await world.deployed(program=says(b"hello")))
    await gate.seen("remove").wait()
    gate.failures.clear()
    removing.set()
    ended = await world.ended(name)
    assert (ended.state, ended.exit_code) == (ExecutionState.SUCCEEDED, 0)
    first, second = containers.created
    assert replace(first, env={}) == replace(second, env={})  # the deadline moves on
    await world.idle()
    assert containers.present == {}


async def test_the_environment_tells_what_can_be_known(world: World) -> None:
    await world.deployed(env={"MINE": "1"})
    execution = await world.run(traceparent="00-trace")
    env = world.runtime.containers.created[0].env
    assert env["MINE"] == "1"
    assert env["SKYBRIDGE_EXECUTION_ID"] == execution.name.execution
    assert env["TRACEPARENT"] == "00-trace"


async def test_queue_timeout(world: World) -> None:
    await world.deployed(
        program=sleep,
        scaling=Scaling(max_concurrency=1),
        timeouts=replace(Timeouts(), queue=minutes(1), execution=minutes(5)),
    )
    first = await world.start()
    second = await world.run()
    assert second.failure is not None
    assert second.failure.reason is FailureReason.QUEUE_TIMEOUT
    assert "spec.timeouts.queue (60 s)" in second.failure.message
    assert (second.timings.start, second.timings.run, second.start_time) == (None, None, None)
    assert not second.cold_start
    assert world.active(first).journal.execution.state is ExecutionState.RUNNING


async def test_a_caller_may_ask_for_less_time(world: World) -> None:
    await world.deployed(program=sleep)
    execution = await world.run(timeout=SECOND)
    assert execution.failure is not None
    assert execution.failure.message == "it ran longer than 1 s: raise options.timeout"


async def test_a_caller_gets_no_more_time_than_the_function(world: World) -> None:
    await world.deployed(program=sleep, timeouts=SHORT)
    execution = await world.run(timeout=minutes(5))
    assert execution.failure is not None
    assert execution.failure.message == "it ran longer than 1 s: raise spec.timeouts.execution"


# -- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["create", "attach", "start"])
@pytest.mark.parametrize("when", ["while it hangs", "after it fails"])
async def test_a_stop_while_the_container_is_made(world: World, held: str, when: str) -> None:
    await world.deployed()
    release = world.runtime.gate.hold(held)
    name = await world.start()
    await world.runtime.gate.seen(held).wait()
    if when == "after it fails":
        world.runtime.gate.failures[held] = RuntimeUnavailableError("gone")
        release.set()
    world.active(name).stop(FailureReason.CANCELLED, "it was cancelled")

    execution = await world.ended(name)
    assert execution.state is ExecutionState.CANCELLED
    assert execution.exit_code is None
    await world.idle()
    assert not world.runtime.containers.present


async def test_a_stop_while_it_waits_makes_no_container(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    await world.start()
    name = await world.start()
    await settle()
    made = len(world.runtime.containers.created)
    world.active(name).stop(FailureReason.CANCELLED, "it was cancelled")
    assert (await world.ended(name)).state is ExecutionState.CANCELLED
    assert len(world.runtime.containers.created) == made


async def test_a_stop_in_the_moment_of_its_turn_makes_no_container(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    first, second = await world.start(), await world.start()
    await world.reaches(first, ExecutionState.RUNNING)
    world.active(first).ticket.release()  # the second's turn comes
    world.active(second).stop(FailureReason.CANCELLED, "it was cancelled")
    assert (await world.ended(second)).state is ExecutionState.CANCELLED
    assert len(world.runtime.containers.created) == 1


async def test_stopping_is_term_then_grace_then_kill(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    before = asyncio.get_running_loop().time()
    active.stop(FailureReason.CANCELLED, "it was cancelled")
    assert active.journal.execution.state is ExecutionState.CANCELLING
    execution = await world.ended(name)
    assert [signal for _, signal in world.runtime.containers.signals] == ["SIGTERM", "SIGKILL"]
    waited = asyncio.get_running_loop().time() - before  # virtual
    assert waited == pytest.approx(Timeouts().shutdown_grace.total_seconds(), abs=0.1)
    assert execution.state is ExecutionState.CANCELLED


async def test_without_grace_it_is_killed_at_once(world: World) -> None:
    await world.deployed(program=sleep, timeouts=replace(SHORT, shutdown_grace=timedelta(0)))
    await world.run()
    assert [signal for _, signal in world.runtime.containers.signals] == ["SIGKILL"]


async def test_the_first_reason_to_stop_wins(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    active.stop(FailureReason.DEADLINE, "first")
    active.stop(FailureReason.CANCELLED, "second")
    execution = await world.ended(name)
    assert execution.failure is not None
    assert (execution.failure.reason, execution.failure.message) == (
        FailureReason.DEADLINE,
        "first",
    )


async def test_what_has_exited_cannot_be_stopped(world: World) -> None:
    await world.deployed(program=says(b"x"))
    name = await world.start()
    active = world.active(name)
    await world.runtime.gate.seen("start").wait()
    release = world.disk.hold("append")
    await until(lambda: active._exited)
    active.stop(FailureReason.CANCELLED, "too late")
    release.set()
    assert (await world.ended(name)).state is ExecutionState.SUCCEEDED


async def test_killed_and_removed_from_outside(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    container = world.runtime.containers.present[active.container_id]
    container.kill()
    await container.ended.wait()
    await world.runtime.containers.remove(active.container_id)  # a moment after the kill
    execution = await world.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.CONTAINER_REMOVED


async def test_killed_from_outside_and_left(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    world.runtime.containers.present[active.container_id].kill()
    execution = await world.ended(name)
    assert execution.failure is not None
    assert (execution.failure.reason, execution.failure.signal) == (FailureReason.SIGNAL, 9)
    assert "not sent by Skybridge" in execution.failure.message


async def test_an_engine_lost_while_it_runs_leaves_a_gap_in_both_streams(world: World) -> None:
    async def talks(process: FakeProcess) -> int:
        await process.write(b"so far")
        return await sleep(process)

    await world.deployed(program=talks)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    world.runtime.gate.away = True
    container = world.runtime.containers.present[active.container_id]
    await container.process.output.close()  # the connection breaks
    execution = await world.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.RUNTIME_UNAVAILABLE
    assert execution.exit_code is None
    gaps = gaps_of(world.journal(name))
    assert [(g.stream, g.offset, g.length, g.reason) for g in gaps] == [
        (OutputStream.STDOUT, 6, None, GapReason.RUNTIME_UNAVAILABLE),
        (OutputStream.STDERR, 0, None, GapReason.RUNTIME_UNAVAILABLE),
    ]


async def test_the_end_of_the_output_is_not_the_end_of_the_process(world: World) -> None:
    go_on = asyncio.Event()

    async def closes_early(process: FakeProcess) -> int:
        await process.write(b"all I say")
        await process.output.close()
        await go_on.wait()
        return 4

    await world.deployed(program=closes_early)
    name = await world.start()
    await world.runtime.gate.seen("wait").wait()
    await settle()
    assert world.active(name).journal.execution.state is ExecutionState.RUNNING
    go_on.set()
    assert (await world.ended(name)).exit_code == 4


# -- a store that refuses -----------------------------------------------------------------------


async def test_the_end_is_stored_once_the_store_is_back(world: World) -> None:
    await world.deployed(program=_obeys)
    name = await world.start()
    active = await world.reaches(name, ExecutionState.RUNNING)
    await active.journal.flush()
    world.disk.failures["append"] = StorageError("disk full")
    await world.runtime.containers.signal(active.container_id, "SIGTERM")
    await until(lambda: active._exited)
    await asyncio.sleep(60)
    assert not active.over.is_set()
    assert not world.runtime.containers.present  # it does not wait with that
    world.disk.failures.clear()
    assert (await world.ended(name)).state is ExecutionState.SUCCEEDED


async def test_a_process_does_not_run_on_while_nothing_can_be_stored(world: World) -> None:
    async def chats(process: FakeProcess) -> int:
        while True:
            await process.write(b"blah")
            await asyncio.sleep(1)

    await world.deployed(program=chats)
    name = await world.start()
    await world.reaches(name, ExecutionState.RUNNING)
    world.disk.failures["append"] = StorageError("disk full")
    await asyncio.sleep(10)
    assert not world.runtime.containers.present
    world.disk.failures.clear()
    execution = await world.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.INTERNAL
    assert "could not be stored: disk full" in execution.failure.message
    assert {gap.reason for gap in gaps_of(world.journal(name))} == {GapReason.STORAGE_UNAVAILABLE}
