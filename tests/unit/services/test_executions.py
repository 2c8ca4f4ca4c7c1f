"""What callers may ask of executions: acceptance, repeats, leaving, cancelling, waiting."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from skybridge_server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    RuntimeUnavailableError,
    StorageError,
)
from skybridge_server.models.executions import Execution, ExecutionState, FailureReason
from skybridge_server.models.functions import Contract, InputMode, Scaling
from skybridge_server.models.journal import Event, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services import labels
from skybridge_server.services.requests import ExecutionRequest, Heartbeat
from skybridge_server.services.slots import AHEAD
from tests.fakes.runtime import FakeProcess, says, sleep
from tests.unit.services.world import HELLO, World, key, minutes, output_of, settle, until, world_of

S = ExecutionState
HOUR = timedelta(hours=1)


def reason(execution: Execution) -> FailureReason | None:
    return execution.failure.reason if execution.failure else None


async def only(world: World) -> ExecutionName:
    """Return the name of the only execution, once it is stored."""
    await until(lambda: world.repositories.executions.rows)
    (name,) = world.repositories.executions.rows
    return name


# -- acceptance ---------------------------------------------------------------------------------


async def test_what_cannot_be_executed_is_refused_and_leaves_nothing(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.execute()
    await world.create()
    with pytest.raises(FailedPreconditionError, match="DeployFunction") as refused:
        await world.execute()
    assert refused.value.reason == "FUNCTION_NOT_DEPLOYED"
    await world.deploy()
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    with pytest.raises(FailedPreconditionError, match="EnableFunction") as refused:
        await world.execute()
    assert refused.value.reason == "FUNCTION_DISABLED"
    assert not world.repositories.executions.rows
    assert world.services.system.info().running_executions == 0


async def test_nothing_is_accepted_while_the_engine_is_away(world: World) -> None:
    await world.deployed()
    world.runtime.gate.away = True
    await until(lambda: not world.engines.ready)
    with pytest.raises(RuntimeUnavailableError):
        await world.execute()
    assert not world.repositories.executions.rows
    world.runtime.gate.away = False
    await until(lambda: world.engines.ready)
    assert (await world.execute()).state is S.SUCCEEDED


async def test_a_function_of_a_runtime_that_the_server_no_longer_has(world: World) -> None:
    await world.deployed()
    revision = next(iter(world.repositories.revisions.rows.values()))
    world.repositories.revisions.rows[revision.name] = replace(
        revision, spec=replace(revision.spec, runtime="gone")
    )
    with pytest.raises(FailedPreconditionError, match="no runtime 'gone'") as refused:
        await world.execute()
    assert refused.value.reason == "UNKNOWN_RUNTIME"


async def test_input_must_fit_the_contract(world: World) -> None:
    await world.deployed(contract=Contract(input=InputMode.ENV))
    with pytest.raises(InvalidArgumentError, match="UTF-8"):
        await world.execute(input=b"\xff")
    await world.execute(input="grüße".encode())
    assert world.runtime.containers.created[0].env["SKYBRIDGE_INPUT"] == "grüße"


async def test_a_full_queue_refuses_and_says_when_to_come_back(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1, max_queue_depth=1))
    for _ in range(2):
        await world.start()
    with pytest.raises(ResourceExhaustedError):
        await world.start()
    assert len(world.repositories.executions.rows) == 2


async def test_two_hundred_callers_on_a_limit_of_four(world: World) -> None:
    at_once = most = 0
    all_have_come = asyncio.Event()

    async def program(_process: FakeProcess) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await all_have_come.wait()
        at_once -= 1
        return 0

    await world.deployed(program=program)
    callers = [asyncio.create_task(world.execute()) for _ in range(200)]
    await until(lambda: sum(caller.done() for caller in callers) == 96)
    all_have_come.set()
    calls = await asyncio.gather(*callers, return_exceptions=True)
    ended = Counter(c.state.name if isinstance(c, Execution) else type(c).__name__ for c in calls)
    assert ended == {"SUCCEEDED": 104, "ResourceExhaustedError": 96}
    assert most == 4


async def test_a_store_that_refuses_gives_the_place_back(world: World) -> None:
    await world.deployed()
    world.disk.failures["add"] = StorageError("disk full")
    for _ in range(200):
        with pytest.raises(StorageError):
            await world.start()
    world.disk.failures.clear()
    assert (await world.run()).state is S.SUCCEEDED
    assert not world.services.registry._active


async def test_an_execution_does_not_run_before_it_is_stored(world: World) -> None:
    await world.deployed()
    release = world.disk.hold("add")
    starting = asyncio.create_task(world.start())
    await asyncio.sleep(60)
    assert not world.runtime.containers.created
    release.set()
    await world.ended(await starting)


# -- repeats ------------------------------------------------------------------------------------


async def test_a_repeat_gets_the_first_execution(world: World) -> None:
    await world.deployed(program=says(b"once"))
    first = await world.execute(key=key())
    assert await world.execute(key=key()) == first
    assert (await world.start(key=key())) == first.name
    assert len(world.repositories.executions.rows) == 1


async def test_an_id_used_for_something_else_is_refused(world: World) -> None:
    await world.deployed()
    await world.execute(key=key(asked="this"))
    with pytest.raises(AlreadyExistsError) as refused:
        await world.execute(key=key(asked="that"))
    assert refused.value.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("held", ["add", "nothing"])
async def test_repeats_at_the_same_time_share_one_execution(world: World, held: str) -> None:
    await world.deployed(program=says(b"once"), scaling=Scaling(max_concurrency=1))
    release = world.disk.hold(held)
    calls = [asyncio.create_task(world.execute(key=key())) for _ in range(20)]
    await settle()
    release.set()
    executions = await asyncio.gather(*calls)
    assert {execution.name for execution in executions} == {await only(world)}
    assert {execution.state for execution in executions} == {S.SUCCEEDED}
    await world.idle()
    assert len(world.runtime.containers.created) == 1
    assert world.services.system.info().queued_executions == 0
    assert not world.services.registry._active


async def test_a_repeat_finds_the_first_also_where_it_cannot_be_accepted_itself(
    world: World,
) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1, max_queue_depth=0))
    release = world.disk.hold("add")
    first = asyncio.create_task(world.start(key=key()))
    await settle()
    second = asyncio.create_task(world.start(key=key()))
    await settle()
    release.set()
    names = await asyncio.gather(first, second, return_exceptions=True)
    assert names[0] == await only(world)
    assert names[1] == names[0] or isinstance(names[1], ResourceExhaustedError)
    assert await world.start(key=key()) == names[0]


async def test_a_repeat_that_leaves_does_not_cancel_for_the_first(world: World) -> None:
    go_on = asyncio.Event()

    async def program(_process: FakeProcess) -> int:
        await go_on.wait()
        return 0

    await world.deployed(program=program)
    first = asyncio.create_task(world.execute(key=key()))
    name = await only(world)
    await world.reaches(name, S.RUNNING)
    second = asyncio.create_task(world.execute(key=key(), time_left=timedelta(0)))
    await settle()
    second.cancel()
    await settle()
    go_on.set()
    assert (await first).state is S.SUCCEEDED


async def test_a_repeat_of_what_waits_in_the_store_waits_for_its_end(world: World) -> None:
    go_on = asyncio.Event()

    async def program(_process: FakeProcess) -> int:
        await go_on.wait()
        return 0

    await world.deployed(program=program, scaling=Scaling(max_concurrency=1))
    for _ in range(2 * AHEAD):
        await world.start()
    name = await world.start(key=key())
    assert world.services.registry.get(name) is None
    repeat = asyncio.create_task(world.execute(key=key()))
    await settle()
    assert not repeat.done()
    go_on.set()
    execution = await repeat
    assert (execution.name, execution.state) == (name, S.SUCCEEDED)


async def test_a_repeat_hears_of_an_end_in_the_store(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    for _ in range(2 * AHEAD):
        await world.start()
    name = await world.start(key=key())
    repeat = asyncio.create_task(world.execute(key=key()))
    await settle()
    rows = world.repositories.executions.rows
    rows[name] = replace(rows[name], state=S.FAILED)
    assert (await repeat).state is S.FAILED


async def test_a_repeat_waits_while_the_first_is_stored_for_nobody(world: World) -> None:
    await world.deployed(program=sleep)
    release = world.disk.hold("add")
    first = asyncio.create_task(world.execute(key=key()))
    await settle()
    first.cancel()
    await settle()
    repeat = asyncio.create_task(world.execute(key=key()))
    await settle()
    assert world.services.system.info().running_executions == 1
    release.set()
    assert (await repeat).name == await only(world)


# -- callers that leave -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held", ["get", "add", "create", "attach", "start", "wait", "queue", "nothing"]
)
async def test_a_caller_that_leaves_cancels_at_every_stage(world: World, held: str) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    if held == "queue":
        first = await world.start()
        await world.reaches(first, S.RUNNING)
    release = [gate.hold(held) for gate in (world.disk, world.runtime.gate)]
    call = asyncio.create_task(world.execute())
    await settle()
    call.cancel()
    await settle()
    for each in release:
        each.set()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    await until(lambda: len(world.services.registry._tasks) == (held == "queue"))
    name = [*world.repositories.executions.rows][-1]
    execution = await world.ended(name)
    assert reason(execution) is FailureReason.DISCONNECTED
    assert len(world.runtime.containers.present) == (held == "queue")


@pytest.mark.parametrize("cut", [0.0, -0.05])
async def test_a_caller_whose_deadline_passes(world: World, cut: float) -> None:
    """Its own clock may be a bit faster than ours."""
    await world.deployed(program=sleep)
    call = asyncio.create_task(world.execute(time_left=timedelta(seconds=-cut)))
    await settle()
    call.cancel()
    execution = await world.ended(await only(world))
    assert (execution.state, reason(execution)) == (S.TIMED_OUT, FailureReason.DEADLINE)


async def test_a_caller_that_leaves_long_before_its_deadline(world: World) -> None:
    await world.deployed(program=sleep)
    call = asyncio.create_task(world.execute(time_left=minutes(1)))
    await settle()
    call.cancel()
    assert reason(await world.ended(await only(world))) is FailureReason.DISCONNECTED


async def test_the_callers_deadline_limits_the_process(world: World) -> None:
    await world.deployed(program=sleep)
    execution = await world.execute(time_left=timedelta(seconds=3))
    assert (execution.state, reason(execution)) == (S.TIMED_OUT, FailureReason.DEADLINE)


async def test_an_execution_bound_to_nobody_goes_on(world: World) -> None:
    await world.deployed(program=says(b"x"))
    call = asyncio.create_task(world.start())
    release = world.disk.hold("add")
    await settle()
    call.cancel()
    await settle()
    release.set()
    assert (await world.ended(await only(world))).state is S.SUCCEEDED


async def take(world: World, count: int, cancel_after: timedelta | None) -> None:
    """Read some items of a stream, then leave."""
    stream = world.services.executions.stream(
        ExecutionRequest(HELLO), cancel_after=cancel_after, heartbeat=HOUR
    )
    for _ in range(count):
        await anext(stream)
    await stream.aclose()


@pytest.mark.parametrize("items", [1, 2, 3, 4])
async def test_a_stream_that_is_left_is_cancelled_after_its_grace(world: World, items: int) -> None:
    await world.deployed(program=sleep)
    await take(world, items, timedelta(seconds=30))
    name = await only(world)
    await asyncio.sleep(29)
    assert world.active(name).stop_reason is None
    assert reason(await world.ended(name)) is FailureReason.DISCONNECTED


async def test_a_stream_may_go_on_without_its_caller(world: World) -> None:
    await world.deployed(program=sleep)
    await take(world, 2, None)
    await asyncio.sleep(50)
    assert (await world.services.executions.get(await only(world))).state is S.RUNNING


async def test_who_comes_back_in_time_keeps_it_alive(world: World) -> None:
    await world.deployed(program=sleep)
    await take(world, 2, timedelta(seconds=10))
    name = await only(world)
    await asyncio.sleep(9)
    watching = world.services.executions.watch(name, after=0, heartbeat=timedelta(seconds=30))
    for _ in range(4):
        await anext(watching)
    assert world.active(name).stop_reason is None
    await watching.aclose()
    assert reason(await world.ended(name)) is FailureReason.DISCONNECTED


async def test_a_watcher_does_not_keep_alive_what_its_caller_waits_for(world: World) -> None:
    await world.deployed(program=sleep)
    call = asyncio.create_task(world.execute())
    name = await only(world)
    watching = world.services.executions.watch(name, after=0, heartbeat=HOUR)
    await anext(watching)
    call.cancel()
    assert reason(await world.ended(name)) is FailureReason.DISCONNECTED
    await watching.aclose()


async def test_a_watcher_that_leaves_touches_nothing(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    watching = world.services.executions.watch(name, after=0, heartbeat=HOUR)
    await anext(watching)
    await watching.aclose()
    await asyncio.sleep(50)
    assert world.active(name).stop_reason is None


async def test_no_grace_runs_for_what_has_ended(world: World) -> None:
    """Its timer would keep it in memory."""
    await world.deployed(program=says(b"x"))
    stream = world.services.executions.stream(
        ExecutionRequest(HELLO), cancel_after=HOUR, heartbeat=HOUR
    )
    items = [item async for item in stream]
    assert isinstance(items[0], ExecutionName)
    await world.idle()
    del stream, items
    assert not world.journals_in_memory()


# -- the rest of the calls ----------------------------------------------------------------------


async def test_cancel_says_at_once_what_comes_of_it(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    running, waiting = await world.start(), await world.start()
    await world.reaches(running, S.RUNNING)
    cancel = world.services.executions.cancel
    assert (await cancel(waiting)).state is S.CANCELLED
    assert (await cancel(running)).state is S.CANCELLING
    assert (await cancel(running)).state is S.CANCELLING
    execution = await world.ended(running)
    assert reason(execution) is FailureReason.CANCELLED
    assert await cancel(running) == execution
    with pytest.raises(NotFoundError):
        await cancel(ExecutionName("default", "unknown"))


async def test_wait(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    wait = world.services.executions.wait
    assert (await wait(name, timedelta(0))).state is S.QUEUED
    assert (await wait(name, timedelta(seconds=5))).state is S.RUNNING
    waiting = asyncio.create_task(wait(name, HOUR))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.active(name).stop_reason is None
    waiting = asyncio.create_task(wait(name, HOUR))
    await settle()
    await world.services.executions.cancel(name)
    assert (await waiting).state is S.CANCELLED
    assert (await wait(name, HOUR)).state is S.CANCELLED


async def test_only_what_has_ended_can_be_deleted(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    with pytest.raises(FailedPreconditionError, match="CancelExecution"):
        await world.services.executions.delete(name)
    await world.services.executions.cancel(name)
    await world.ended(name)
    await world.services.executions.delete(name)
    with pytest.raises(NotFoundError):
        await world.services.executions.get(name)


async def test_output(world: World) -> None:
    await world.deployed(program=says(b"out", b"e" * 10_000 + b"rr"))
    execution = await world.execute()
    output = await world.services.executions.output(execution)
    assert (output.output, output.truncated) == (b"out", False)
    assert output.log_tail == b"e" * 8190 + b"rr"
    queued = replace(execution, state=S.QUEUED)
    assert (await world.services.executions.output(queued)).log_tail == b""


# -- bounds -------------------------------------------------------------------------------------


async def test_inputs_do_not_wait_in_memory(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    for _ in range(3):
        await world.start(input=b"x" * 100_000)
    await settle()
    stored = {id(data) for data in world.repositories.executions.inputs.values()}
    active = [*world.services.registry]
    referred = {id(each) for a in active for each in gc.get_referents(a, a.journal)}
    assert not stored & referred


async def test_ended_executions_leave_nothing_in_memory() -> None:
    async with world_of() as world:
        await world.deployed(program=says(b"out", b"err"))
        for round_ in range(20):
            await asyncio.gather(
                *(world.execute(key=key(request_id=f"{round_}.{each}")) for each in range(5)),
                *(take(world, 3, HOUR) for _ in range(5)),
            )
            stop_all(world)
        await world.idle()
        registry, acceptance = world.services.registry, world.services.executions._acceptance
        places, admission = acceptance._places, acceptance._admission
        for kept in (registry._active, registry._tasks, registry._owned, registry._listeners):
            assert not kept
        assert (admission._storing, places._slots._lanes) == ({}, {})
        assert not acceptance._claims._claims
        assert not world.journals_in_memory()
        assert len(asyncio.all_tasks()) < 5


def stop_all(world: World) -> None:
    for active in world.services.registry:
        active.stop(FailureReason.CANCELLED, "enough")


async def test_every_function_has_its_own_queue(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    other = await world.deployed(FunctionName("default", "other"))
    for _ in range(3):
        await world.start()
    name = await world.start(other)
    await world.reaches(name, S.RUNNING)


async def test_streams_start_with_the_name_and_end_with_the_result(world: World) -> None:
    await world.deployed(program=says(b"hi"))
    stream = world.services.executions.stream(
        ExecutionRequest(HELLO), cancel_after=HOUR, heartbeat=HOUR
    )
    name, *events = [item async for item in stream]
    assert name == await only(world)
    assert [e for e in events if not isinstance(e, Heartbeat)] == world.journal(await only(world))
    assert output_of([e for e in events if isinstance(e, Event)], OutputStream.STDOUT) == b"hi"


async def test_a_function_that_floods_the_server_starves_nobody() -> None:
    async with world_of(max_concurrent_executions=2) as world:
        starting = world.runtime.gate.hold("start")
        await world.deployed(program=says())
        other = await world.deployed(FunctionName("default", "other"))
        flood = [await world.start() for _ in range(20)]
        late = await world.start(other)
        starting.set()
        for name in (*flood, late):
            await world.ended(name)
    order = [spec.labels[labels.EXECUTION] for spec in world.runtime.containers.created]
    assert order.index(str(late)) <= 3  # two that ran already, and one turn
