"""Executions on instances: stored once, ended once, and what becomes of the instance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.contracts.base import Answer, Call, Sink
from skybridge_server.contracts.delivery import Delivery
from skybridge_server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InitError,
    InstanceGoneError,
    InvalidArgumentError,
    NotFoundError,
    ProtocolError,
    RuntimeUnavailableError,
    StorageError,
)
from skybridge_server.models.executions import (
    Envelope,
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
)
from skybridge_server.models.functions import (
    Contract,
    ContractKind,
    Durability,
    Resources,
    Scaling,
    Timeouts,
)
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.journal import OutputStream, StateChange
from skybridge_server.models.names import FunctionName
from skybridge_server.models.paging import PageRequest
from skybridge_server.runtimes.base import Exit
from skybridge_server.services.executions import Ended as Ending
from skybridge_server.services.pool.instances import Ended, Instance
from skybridge_server.services.requests import ExecutionRequest, RequestKey
from skybridge_server.services.swift import SWIFT_SECONDS
from skybridge_server.services.together import execute_all
from tests.unit.services.pool.kit import FakeLauncher
from tests.unit.services.world import HELLO, World, key, output_of, settle, until, world_of

Program = Callable[[Instance, Call, Sink], Awaitable[Answer]]
S = ExecutionState
HTTP = Contract(ContractKind.HTTP)
SECOND = timedelta(seconds=1)
FINE = Answer(None, "", {}, 200, reusable=True)


async def echo(_instance: Instance, call: Call, sink: Sink) -> Answer:
    """Answer with the input."""
    await give(sink, call.input)
    return FINE


async def hang(_instance: Instance, _call: Call, _sink: Sink) -> Answer:
    await asyncio.Event().wait()
    return FINE


def takes(seconds: float) -> Program:
    """Return a program that works for a while."""

    async def work(instance: Instance, call: Call, sink: Sink) -> Answer:
        await asyncio.sleep(seconds)
        return await echo(instance, call, sink)

    return work


async def give(sink: Sink, data: bytes) -> None:
    waits = sink(data) if data else None
    if waits is not None:
        await waits


class FakeExchange:
    """A program at work."""

    def __init__(self, instance: Instance, call: Call, program: Program) -> None:
        self._delivery = Delivery()
        self._work = asyncio.create_task(self._do(program(instance, call, self._take)))
        self._answer = FINE

    async def _do(self, work: Awaitable[Answer]) -> None:
        try:
            self._answer = await work
            self._delivery.finish()
        except Exception as error:  # noqa: BLE001 - it is the answer
            self._delivery.finish(error)

    def _take(self, data: bytes) -> None:
        self._delivery.add(data, Endless())

    def on_whole(self, call: Callable[[], None]) -> None:
        self._delivery.on_whole(call)

    @property
    def collected(self) -> Sequence[bytes] | None:
        return self._delivery.collected

    def end(self) -> Answer:
        return self._answer

    async def answer(self, sink: Sink) -> Answer:
        try:
            await self._delivery.to(sink)
        finally:
            self.abandon()
        return self.end()

    def abandon(self) -> None:
        self._work.cancel()


class Endless(asyncio.ReadTransport):
    """A source that cannot be held back."""

    def pause_reading(self) -> None:
        """It goes on."""

    def resume_reading(self) -> None:
        """It never stopped."""


class FakeConversation:
    """Runs the program that the test has given by then."""

    def __init__(self, launcher: TalkingLauncher, instance: Instance) -> None:
        self._launcher = launcher
        self._instance = instance

    async def ready(self) -> None:
        """It is."""

    def begin(self, call: Call) -> FakeExchange | None:
        if self._instance in self._launcher.deaf:
            return None
        self._launcher.calls.append(call)
        return FakeExchange(self._instance, call, self._launcher.program)

    async def connect(self) -> None:
        if self._instance in self._launcher.deaf:
            raise ConnectionRefusedError("nobody listens")

    async def call(self, call: Call, sink: Sink) -> Answer:
        exchange = self.begin(call)
        if exchange is None:
            raise GONE
        return await exchange.answer(sink)

    async def close(self) -> None:
        """Nothing is held."""


class TalkingLauncher(FakeLauncher):
    """Starts instances that can be talked to."""

    def __init__(self) -> None:
        super().__init__()
        self.program: Program = echo
        self.calls: list[Call] = []
        self.thaws = 0
        self.deaf: set[Instance] = set()
        """They take no connections, though nobody knows yet."""
        self.all_deaf = False

    async def start(self, instance: Instance) -> None:
        await super().start(instance)
        if self.all_deaf:
            self.deaf.add(instance)
        instance.conversation = FakeConversation(self, instance)
        instance.start, instance.init = SECOND / 4, SECOND / 20

        async def thaw() -> None:
            self.thaws += 1
            instance.frozen = False

        instance.thaw = thaw

    def pause(self, instance: Instance) -> None:
        super().pause(instance)
        instance.frozen = True


@pytest.fixture
def launcher() -> TalkingLauncher:
    return TalkingLauncher()


@pytest.fixture
async def world(launcher: TalkingLauncher) -> AsyncGenerator[World, None]:
    async with world_of(launcher) as made:
        yield made
    assert not launcher.present


async def deployed(world: World, *, warm: bool = True, **spec: Any) -> None:
    """Deploy HELLO with the contract HTTP and, if `warm`, let it have an idle instance."""
    await world.deployed(contract=HTTP, **spec)
    if warm:
        execution = await world.execute()
        assert execution.cold_start


async def ended(world: World, execution: Execution) -> Execution:
    """Return an execution as it is stored, when its journal keeps the rules."""
    return await world.ended(execution.name)


def states_of(world: World, execution: Execution) -> list[ExecutionState]:
    bodies = [event.body for event in world.journal(execution.name)]
    return [body.state for body in bodies if isinstance(body, StateChange)]


# --- storing ------------------------------------------------------------------------------------


async def test_an_execution_on_a_ready_instance_is_stored_in_one_write(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world)
    world.disk.failures["append"] = StorageError("nothing may be appended")
    world.disk.failures["get_input"] = StorageError("nothing may be read")
    request = ExecutionRequest(HELLO, b"data", envelope=Envelope("text/plain", {"a": "b"}))
    execution, output = await world.services.executions.execute(request, time_left=None)
    assert output.output == b"data"
    assert await ended(world, execution) == execution
    assert states_of(world, execution) == [S.QUEUED, S.RUNNING]
    assert output_of(world.journal(execution.name)) == b"data"
    assert (execution.cold_start, execution.timings.start) == (False, None)
    assert (launcher.calls[-1].content_type, launcher.calls[-1].headers) == (
        "text/plain",
        {"a": "b"},
    )


async def test_a_cold_start_is_told(world: World) -> None:
    await deployed(world, warm=False)
    execution = await world.execute(input=b"x")
    assert await ended(world, execution) == execution
    assert states_of(world, execution) == [S.QUEUED, S.STARTING, S.RUNNING]
    assert (execution.timings.start, execution.timings.init) == (SECOND / 4, SECOND / 20)


async def test_what_takes_longer_is_stored_meanwhile(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world)
    launcher.program = takes(1)
    call = asyncio.create_task(world.execute(input=b"x"))
    await asyncio.sleep(2 * SWIFT_SECONDS)
    (running,) = [
        each for each in world.repositories.executions.rows.values() if not each.state.final
    ]
    assert (running.state, running.lease.epoch) == (S.RUNNING, 1)
    execution = await call
    assert await ended(world, execution) == execution
    assert execution.state is S.SUCCEEDED


async def test_much_output_is_stored_meanwhile(world: World, launcher: TalkingLauncher) -> None:
    async def flood(_instance: Instance, _call: Call, sink: Sink) -> Answer:
        for _ in range(200):
            await give(sink, b"x" * 60_000)
        return FINE

    await deployed(world)
    launcher.program = flood
    execution = await world.execute()
    assert (await ended(world, execution)).stdout_bytes == 12_000_000


async def test_a_store_that_refuses_is_the_callers_error_and_stores_first_from_then_on(
    world: World,
) -> None:
    await deployed(world)
    before = len(world.repositories.executions.rows)
    world.disk.failures["add"] = StorageError("disk full")
    with pytest.raises(StorageError):
        await world.execute()
    with pytest.raises(StorageError):
        await world.execute()
    assert len(world.repositories.executions.rows) == before
    del world.disk.failures["add"]
    assert states_of(world, await world.execute()) == [S.QUEUED, S.RUNNING]
    await world.execute()


async def test_what_is_started_alone_is_stored_before_it_runs(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world)
    calls = len(launcher.calls)
    held = world.disk.hold("append")
    name = await world.start(input=b"x")
    await settle()
    assert len(launcher.calls) == calls
    held.set()
    assert (await world.ended(name)).state is S.SUCCEEDED


async def test_a_start_that_fails_before_the_execution_is_stored_is_told(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False)
    launcher.failures = [InitError("no module named soup")]
    held = world.disk.hold("add")
    starting = asyncio.create_task(world.start())
    await until(lambda: launcher.started and not launcher.present)
    held.set()
    failure = (await world.ended(await starting)).failure
    assert failure is not None
    assert failure.reason is FailureReason.INIT_ERROR


async def test_deferred_answers_come_before_the_write(world: World) -> None:
    await deployed(world, durability=Durability.DEFERRED)
    held = world.disk.hold("add")
    request = ExecutionRequest(HELLO, b"data")
    execution, output = await world.services.executions.execute(request, time_left=None)
    assert (execution.state, output.output) == (S.SUCCEEDED, b"data")
    reading = asyncio.create_task(world.services.executions.get(execution.name))
    await settle()
    assert not reading.done()  # who asks for it waits for the write
    held.set()
    assert await reading == execution == await ended(world, execution)
    assert (await world.services.executions.output(execution)).output == b"data"


# --- repeats ------------------------------------------------------------------------------------


async def test_a_repeat_finds_the_first_whether_it_is_stored_or_not(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world)
    calls = len(launcher.calls)
    launcher.program = takes(0.01)
    same = key("ExecuteFunction")
    first, second = await asyncio.gather(*(world.execute(key=same) for _ in range(2)))
    assert first == second == await world.execute(key=same)
    assert len(launcher.calls) == calls + 1
    with pytest.raises(AlreadyExistsError):
        await world.execute(key=RequestKey("ExecuteFunction", "1", "something else"))


async def test_who_repeats_a_request_that_was_refused_tries_again(world: World) -> None:
    await deployed(world)
    same = key("ExecuteFunction")
    held = world.disk.hold("add")
    world.disk.failures["add"] = StorageError("disk full")
    calls = [asyncio.create_task(world.execute(key=same)) for _ in range(2)]
    await settle()
    held.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in results] == [StorageError] * 2
    del world.disk.failures["add"]
    assert (await world.execute(key=same)).state is S.SUCCEEDED


# --- ends ---------------------------------------------------------------------------------------


def raises(error: Exception, exit_: Exit | None = None, lost: bool = False) -> Program:
    async def program(instance: Instance, _call: Call, _sink: Sink) -> Answer:
        if exit_ is not None:
            instance.end(Ended(exit_))
        if lost:
            instance.end(Ended(error=RuntimeUnavailableError("it is away")))
        raise error

    return program


def answers(**changes: Any) -> Program:
    async def program(_instance: Instance, _call: Call, _sink: Sink) -> Answer:
        return replace(FINE, **changes)

    return program


GONE = InstanceGoneError("it hung up")
FAILED = Failure(FailureReason.FUNCTION_ERROR, "500")


@pytest.mark.parametrize(
    ("program", "reason", "kept"),
    [
        (echo, None, True),
        (answers(reusable=False), None, False),
        (answers(failure=FAILED, status=500), FailureReason.FUNCTION_ERROR, True),
        (raises(ProtocolError("what?")), FailureReason.PROTOCOL_ERROR, False),
        (raises(GONE), FailureReason.INSTANCE_DIED, False),
        (raises(GONE, Exit(0, oom_killed=False)), FailureReason.INSTANCE_DIED, False),
        (raises(GONE, Exit(3, oom_killed=False)), FailureReason.EXIT_CODE, False),
        (raises(GONE, Exit(137, oom_killed=False)), FailureReason.SIGNAL, False),
        (raises(GONE, Exit(137, oom_killed=True)), FailureReason.OUT_OF_MEMORY, False),
        (raises(GONE, lost=True), FailureReason.RUNTIME_UNAVAILABLE, False),
        (raises(RuntimeError("a defect")), FailureReason.INTERNAL, False),
    ],
)
async def test_each_way_to_end(
    world: World,
    launcher: TalkingLauncher,
    program: Program,
    reason: FailureReason | None,
    kept: bool,
) -> None:
    await deployed(world)
    launcher.program = program
    execution = await world.execute()
    assert (execution.failure.reason if execution.failure else None) is reason
    assert await ended(world, execution) == execution
    launcher.program = echo
    after = await world.execute()
    assert (after.instance == execution.instance) is kept
    assert after.state is S.SUCCEEDED


@pytest.mark.parametrize("alone", [False, True])
async def test_what_an_instance_never_heard_of_another_does(
    world: World, launcher: TalkingLauncher, alone: bool
) -> None:
    await deployed(world)
    (dead,) = world.services.pool
    launcher.deaf.add(dead)
    execution = await (_started(world) if alone else world.execute(input=b"x"))
    assert execution.state is S.SUCCEEDED
    assert execution.instance != dead.name.instance
    assert await ended(world, execution) == execution
    assert [call.execution for call in launcher.calls].count(execution.name.execution) == 1
    await until(lambda: dead not in world.services.pool)


async def _started(world: World) -> Execution:
    return await world.ended(await world.start(input=b"x"))


async def test_another_instance_is_tried_once(world: World, launcher: TalkingLauncher) -> None:
    await deployed(world)
    launcher.deaf.update(world.services.pool)
    launcher.all_deaf = True
    execution = await world.execute(input=b"x")
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.INSTANCE_DIED
    assert len(launcher.started) == 2


async def test_output_past_its_limit_fails(world: World) -> None:
    await deployed(world, resources=Resources(output_bytes=1024))
    execution = await world.execute(input=b"x" * 2000)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.OUTPUT_LIMIT
    assert (await ended(world, execution)).stdout_bytes == 2000
    assert output_of(world.journal(execution.name)) == b"x" * 1024


async def test_a_log_that_comes_a_little_late_is_still_the_executions(
    world: World, launcher: TalkingLauncher
) -> None:
    async def talk(instance: Instance, call: Call, _sink: Sink) -> Answer:
        loop = asyncio.get_running_loop()
        data = call.input
        loop.call_later(
            0.01, lambda: asyncio.ensure_future(instance.log.add(OutputStream.STDERR, data))
        )
        return FINE

    await deployed(world, warm=False)
    launcher.program = talk
    for word in (b"one", b"two"):
        execution = await world.execute(input=word)
        assert output_of(world.journal(execution.name), OutputStream.STDERR) == word


async def test_a_log_in_doubt_is_in_nobodys(world: World, launcher: TalkingLauncher) -> None:
    late: list[bytes] = []

    async def talk(instance: Instance, call: Call, _sink: Sink) -> Answer:
        for data in late:
            await instance.log.add(OutputStream.STDERR, data)
        late[:] = [call.input]
        return FINE

    await deployed(world)
    launcher.program = talk
    names = [(await world.execute(input=word)).name for word in (b"one", b"two")]
    stderr = [output_of(world.journal(name), OutputStream.STDERR) for name in names]
    assert stderr == [b"", b""]
    (instance,) = world.services.pool
    assert instance.log.tail == b"one"


# --- stopping -----------------------------------------------------------------------------------

BRIEF = Timeouts(execution=SECOND, shutdown_grace=SECOND, queue=SECOND)


async def test_what_runs_too_long_loses_its_instance(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, timeouts=BRIEF)
    launcher.program = hang
    execution = await world.execute()
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.EXECUTION_TIMEOUT
    assert states_of(world, execution) == [S.QUEUED, S.RUNNING, S.CANCELLING]
    launcher.program = echo
    assert (await world.execute()).instance != execution.instance


async def test_what_returns_within_the_grace_keeps_its_instance(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, timeouts=BRIEF)
    launcher.program = takes(1.5)
    execution = await world.execute(input=b"late")
    assert execution.state is S.TIMED_OUT
    assert output_of(world.journal(execution.name)) == b"late"
    launcher.program = echo
    assert (await world.execute()).instance == execution.instance


async def test_a_caller_that_leaves_stops_its_execution(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, timeouts=BRIEF)
    launcher.program = hang
    call = asyncio.create_task(world.execute())
    await until(lambda: [*world.services.registry])
    (active,) = world.services.registry
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    execution = await active.end()
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.DISCONNECTED
    await world.ended(execution.name)


# --- many at once -------------------------------------------------------------------------------


async def together(world: World, *requests: ExecutionRequest) -> list[Ending | BaseException]:
    executions = world.services.executions
    return await execute_all(executions, requests, lambda ended: ended, time_left=None)


async def test_each_of_many_has_its_own_end(world: World, launcher: TalkingLauncher) -> None:
    async def moody(instance: Instance, call: Call, sink: Sink) -> Answer:
        if call.input == b"breaks":
            raise GONE
        return await (takes(1) if call.input == b"slow" else echo)(instance, call, sink)

    # One finds the instance idle, the others wait for it.
    await deployed(world, scaling=Scaling(max_instances=1))
    launcher.program = moody
    inputs = [b"slow", b"1", b"2", b"breaks", b"3"]
    *ends, missing = await together(
        world,
        *(ExecutionRequest(HELLO, input_) for input_ in inputs),
        ExecutionRequest(FunctionName("default", "missing")),
    )
    assert isinstance(missing, NotFoundError)
    for input_, end in zip(inputs, ends, strict=True):
        assert not isinstance(end, BaseException)
        execution, output = end
        assert await ended(world, execution) == execution
        broken = input_ == b"breaks"
        assert (execution.state, output.output) == (
            (S.FAILED, b"") if broken else (S.SUCCEEDED, input_)
        )


async def test_many_that_take_longer_run_on_at_the_same_time(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, scaling=Scaling(max_instances=1, instance_concurrency=3))
    launcher.program = takes(1)
    began = asyncio.get_running_loop().time()
    ends = await together(world, *[ExecutionRequest(HELLO, b"x")] * 3)
    assert asyncio.get_running_loop().time() - began < 2  # by a clock of the test's own
    for end in ends:
        assert not isinstance(end, BaseException)
        assert states_of(world, end[0]) == [S.QUEUED, S.RUNNING]


async def test_a_store_that_refuses_is_told_of_each_of_many(world: World) -> None:
    await deployed(world, scaling=Scaling(max_instances=1, instance_concurrency=3))
    world.disk.failures["add"] = StorageError("disk full")
    ends = await together(world, *[ExecutionRequest(HELLO)] * 3)
    assert [type(end) for end in ends] == [StorageError] * 3
    del world.disk.failures["add"]
    (end,) = await together(world, ExecutionRequest(HELLO))
    assert not isinstance(end, BaseException)


@pytest.mark.parametrize("moment", [0, 2 * SWIFT_SECONDS])
async def test_a_caller_that_leaves_stops_all_of_many(
    world: World, launcher: TalkingLauncher, moment: float
) -> None:
    scaling = Scaling(max_instances=1, instance_concurrency=3)
    await deployed(world, timeouts=BRIEF, scaling=scaling)
    launcher.program = hang
    # Two more than find room on the instance.
    call = asyncio.create_task(together(world, *[ExecutionRequest(HELLO)] * 5))
    await asyncio.sleep(moment)
    await until(lambda: len(launcher.calls) == 4)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    await until(lambda: len(world.repositories.executions.rows) == 6)
    stored = [*world.repositories.executions.rows][1:]
    await until(lambda: not [*world.services.registry])
    for name in stored:
        execution = await world.ended(name)
        assert execution.failure is not None
        assert execution.failure.reason is FailureReason.DISCONNECTED


async def test_who_waits_too_long_for_an_instance_gives_up(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(
        world, scaling=Scaling(max_instances=1), timeouts=replace(BRIEF, execution=60 * SECOND)
    )
    launcher.program = hang
    busy = await world.start()
    waits = await world.start()
    late = await world.ended(waits)
    assert late.failure is not None
    assert late.failure.reason is FailureReason.QUEUE_TIMEOUT
    await world.services.executions.cancel(busy)
    await world.ended(busy)


async def test_who_is_cancelled_while_its_instance_starts_ends_at_once(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False)
    launcher.may_start.clear()
    name = await world.start()
    await world.reaches(name, S.STARTING)
    await world.services.executions.cancel(name)
    assert (await world.ended(name)).state is S.CANCELLED
    launcher.may_start.set()


async def test_an_instance_that_cannot_start_fails_its_execution(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False)
    launcher.failures = [InitError("no such module")]
    execution = await world.execute()
    assert execution.failure == Failure(FailureReason.INIT_ERROR, "no such module")
    assert not execution.cold_start
    assert states_of(world, execution) == [S.QUEUED, S.STARTING]


async def test_an_instance_whose_engine_goes_away_is_waited_for(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False)
    launcher.failures = [RuntimeUnavailableError("it is away")] * 3
    execution = await world.execute(input=b"mine")
    assert execution.state is S.SUCCEEDED
    assert states_of(world, execution) == [S.QUEUED, S.STARTING, S.RUNNING]
    assert len(launcher.started) == 4


async def test_a_paused_instance_is_let_run_for_an_execution(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, scaling=Scaling(pause_after=SECOND))
    await until(lambda: launcher.paused)
    assert (await world.execute()).state is S.SUCCEEDED
    assert launcher.thaws == 1


async def test_what_ran_when_the_server_died_is_lost(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world)
    launcher.program = hang
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    await until(lambda: world.repositories.executions.rows[name].state is S.RUNNING)
    after = await world.restart()
    await after.services.recovery.run()
    execution = await after.ended(name)
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.LOST
    await after.services.registry.close(0)
    await after.services.instances.close()
    await after.engines.close()


async def test_what_waited_for_its_instance_when_the_server_died_goes_on(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False)
    launcher.may_start.clear()
    name = await world.start(input=b"mine")
    await world.reaches(name, S.STARTING)
    await until(lambda: world.repositories.executions.rows[name].state is S.STARTING)
    after = await world.restart(TalkingLauncher())
    await after.services.recovery.run()
    execution = await after.ended(name)
    assert execution.state is S.SUCCEEDED
    assert states_of(after, execution) == [S.QUEUED, S.STARTING, S.RUNNING]
    assert output_of(after.journal(name)) == b"mine"
    launcher.may_start.set()
    await after.services.registry.close(0)
    await after.services.instances.close()
    await after.engines.close()


# --- what callers may ask -----------------------------------------------------------------------


async def test_stdin_cannot_be_attached_to(world: World) -> None:
    await deployed(world, warm=False)
    with pytest.raises(FailedPreconditionError, match="has no stdin"):
        await world.services.executions.attach(ExecutionRequest(HELLO, interactive=True))


async def test_a_process_takes_no_headers(world: World) -> None:
    await world.deployed()
    with pytest.raises(InvalidArgumentError) as caught:
        await world.execute(envelope=Envelope("text/plain", {"a": "b"}))
    assert [each.field for each in caught.value.violations] == [
        "options.content_type",
        "options.headers",
    ]


async def test_instances_are_listed_page_by_page_and_stopped(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False, timeouts=BRIEF)
    launcher.program = hang
    names = [await world.start() for _ in range(3)]
    for name in names:
        await world.reaches(name, S.RUNNING)
    service = world.services.instances
    first = service.list("default", HELLO, PageRequest(2))
    rest = service.list("default", None, PageRequest(2, first.next))
    found = [record.name for record in (*first.items, *rest.items)]
    assert found == sorted(found)
    assert (len(first.items), len(rest.items), rest.next) == (2, 1, None)
    assert not service.list("other", None, PageRequest(2)).items
    assert service.get(found[0]).state is InstanceState.BUSY
    stopped = service.stop(found[0], force=True)
    assert stopped.state is InstanceState.STOPPING
    for name in names:
        await world.services.executions.cancel(name)
        await world.ended(name)


async def test_a_disabled_function_keeps_no_instance(
    world: World, launcher: TalkingLauncher
) -> None:
    await deployed(world, warm=False, scaling=Scaling(min_instances=1))
    assert launcher.present
    assert not (await world.execute()).cold_start
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    await until(lambda: not launcher.present)
    await world.services.functions.set_enabled(HELLO, True, etag="", key=None)
    await until(lambda: launcher.present)
    await world.services.functions.delete(HELLO, etag="", force=True, key=None)
    await until(lambda: not launcher.present)


async def test_a_start_of_the_server_starts_what_is_kept_ahead(
    world: World, launcher: TalkingLauncher
) -> None:
    await world.deployed(contract=HTTP, scaling=Scaling(min_instances=1))
    await world.services.instances.close()
    assert not launcher.present
    async with world_of(launcher) as other:
        other.services.instances._repositories = world.repositories
        await other.services.instances.open()
        await until(lambda: launcher.present)
