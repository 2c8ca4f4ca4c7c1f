"""What fails while nobody waits is tried again, each attempt with a record of its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.errors import OutOfRangeError, StorageError
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
)
from skybridge_server.models.functions import Timeouts
from skybridge_server.models.journal import Event, Result, StateChange
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.retries import PERMANENT, USUAL, WANTED, RetryPolicy
from skybridge_server.services.requests import ExecutionRequest, LogQuery
from skybridge_server.services.retries import backoff
from tests.fakes.runtime import FakeProcess, Program, sleep
from tests.unit.services.world import HELLO, World, output_of, settle, until

S = ExecutionState
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
THRICE = RetryPolicy(max_attempts=3, initial_backoff=timedelta(seconds=10), jitter=0)


def failed(reason: FailureReason = FailureReason.EXIT_CODE, **changes: Any) -> Execution:
    ended = Execution(
        name=ExecutionName("default", "e1"),
        function=FunctionName("default", "hello"),
        function_uid="u",
        revision=1,
        create_time=NOW,
        state=reason.state,
        failure=Failure(reason, "it failed"),
        exit_code=1,
        background=True,
        end_time=NOW + timedelta(seconds=1),
    )
    return replace(ended, **changes)


def fails(times: int) -> Program:
    """Fail so often, then succeed; each says which attempt it is."""

    async def program(process: FakeProcess) -> int:
        attempt = process.spec.env["SKYBRIDGE_ATTEMPT"]
        await process.write(b"attempt " + attempt.encode())
        return 1 if int(attempt) <= times else 0

    return program


async def run_all(world: World, name: ExecutionName) -> Execution:
    """Let an execution have all its attempts, each when it is due."""
    executions = world.repositories.executions
    while True:
        await world.idle()
        execution = await executions.get(name)
        if execution.state.final:
            return await world.ended(name)
        assert execution.not_before is not None
        world.clock.ahead += max(execution.not_before - world.clock.now(), timedelta(0))
        await world.services.delays.run_due()


# -- when -----------------------------------------------------------------------------------------


def test_backoffs_grow_to_their_limit() -> None:
    policy = RetryPolicy(
        max_attempts=9,
        initial_backoff=timedelta(seconds=1),
        max_backoff=timedelta(seconds=5),
        jitter=0,
    )
    pauses = [backoff(failed(attempt=n), policy) for n in range(1, 6)]
    assert pauses == [timedelta(seconds=n) for n in (1, 2, 4, 5, 5)]


@given(st.integers(1, 99), st.floats(0, 1), st.floats(1, 10))
def test_jitter_only_shortens_and_is_always_the_same(
    attempt: int, jitter: float, coefficient: float
) -> None:
    policy = RetryPolicy(max_attempts=100, backoff_coefficient=coefficient, jitter=jitter)
    pause = backoff(failed(attempt=attempt), policy)
    longest = backoff(failed(attempt=attempt), replace(policy, jitter=0))
    assert pause is not None
    assert longest is not None
    assert longest * (1 - jitter) - timedelta(milliseconds=1) <= pause <= longest
    assert longest <= policy.max_backoff
    assert pause == backoff(failed(attempt=attempt), policy)


@pytest.mark.parametrize("reason", FailureReason)
def test_which_failures_are_tried_again(reason: FailureReason) -> None:
    usual = backoff(failed(reason), THRICE)
    assert (usual is not None) == (reason in USUAL)
    asked_for = backoff(failed(reason), replace(THRICE, retry_on=tuple(FailureReason)))
    assert (asked_for is None) == (reason in WANTED)
    assert not WANTED & PERMANENT


def test_exit_codes_can_be_chosen() -> None:
    chosen = replace(THRICE, exit_codes=(75, 111))
    assert backoff(failed(exit_code=75), chosen)
    assert backoff(failed(exit_code=1), chosen) is None
    assert backoff(failed(FailureReason.LOST, exit_code=None), chosen)


@pytest.mark.parametrize(
    "changes",
    [{"attempt": 3}, {"background": False}, {"end_time": NOW + 6 * HOUR}, {"failure": None}],
    ids=["no attempt is left", "somebody waits", "it is too old", "it succeeded"],
)
def test_when_nothing_is_tried_again(changes: dict[str, Any]) -> None:
    assert backoff(failed(), THRICE)
    assert backoff(failed(**changes), THRICE) is None


def test_age_counts_from_the_time_of_a_delayed_start() -> None:
    late: dict[str, Any] = {"end_time": NOW + 30 * HOUR}
    assert backoff(failed(**late), THRICE) is None
    assert backoff(failed(due_time=NOW + 29 * HOUR, **late), THRICE)


# -- attempts -------------------------------------------------------------------------------------


async def test_it_fails_twice_and_then_succeeds(world: World) -> None:
    await world.deployed(program=fails(2), retry_policy=THRICE)
    name = await world.start(input=b"x")
    await world.idle()
    waiting = await world.services.executions.get(name)
    assert (waiting.state, waiting.attempt, waiting.failure) == (S.QUEUED, 2, None)
    assert waiting.not_before is not None
    assert timedelta(seconds=9) < waiting.not_before - world.clock.now() <= timedelta(seconds=10)
    assert waiting.stdout_bytes == 0

    ended = await run_all(world, name)
    assert (ended.state, ended.attempt, ended.exit_code) == (S.SUCCEEDED, 3, 0)
    assert ended.not_before is None
    first, second = await world.services.executions.attempts(ended)
    assert (first.number, second.number) == (1, 2)
    assert first.failure.reason is FailureReason.EXIT_CODE
    assert (first.exit_code, first.stdout_bytes) == (1, len("attempt 1"))
    assert first.timings.run is not None
    assert first.start_time is not None
    output = await world.services.executions.output(ended)
    assert output.output == b"attempt 3"
    assert not output.truncated
    assert output_of(world.journal(name)) == b"attempt 1attempt 2attempt 3"
    changes = [e.body for e in world.journal(name) if isinstance(e.body, StateChange)]
    assert [(c.state, c.attempt) for c in changes] == [
        (state, n) for n in (1, 2, 3) for state in (S.QUEUED, S.STARTING, S.RUNNING)
    ]
    assert not world.runtime.containers.present


async def test_it_fails_for_good(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=THRICE)
    ended = await run_all(world, await world.start())
    assert (ended.state, ended.attempt, ended.exit_code) == (S.FAILED, 3, 1)
    assert len(await world.services.executions.attempts(ended)) == 2


async def test_a_timeout_is_tried_again(world: World) -> None:
    await world.deployed(
        program=sleep, retry_policy=THRICE, timeouts=Timeouts(execution=timedelta(seconds=1))
    )
    ended = await run_all(world, await world.start())
    assert (ended.state, ended.attempt) == (S.TIMED_OUT, 3)


async def test_who_waits_is_told_at_once(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=THRICE)
    assert (await world.execute()).attempt == 1
    stream = world.services.executions.stream(
        ExecutionRequest(HELLO), cancel_after=None, heartbeat=HOUR
    )
    *_, last = [item async for item in stream]
    assert isinstance(last, Event)
    assert isinstance(last.body, Result)
    assert last.body.execution.attempt == 1


async def test_watchers_see_all_attempts(world: World) -> None:
    await world.deployed(program=fails(2), retry_policy=THRICE)
    name = await world.start()

    async def watch(after: int) -> list[object]:
        items = world.services.executions.watch(name, after=after, heartbeat=HOUR)
        return [item async for item in items if isinstance(item, Event)]

    from_start = asyncio.create_task(watch(0))
    waiting = asyncio.create_task(world.services.executions.wait(name, timedelta(days=1)))
    await world.idle()
    while_it_waits = asyncio.create_task(watch(2))
    await settle()
    assert not waiting.done()
    ended = await run_all(world, name)
    assert await from_start == world.journal(name)
    assert await while_it_waits == world.journal(name)[2:]
    assert await waiting == ended


async def test_logs_are_those_of_the_last_attempt_unless_asked(world: World) -> None:
    await world.deployed(program=fails(1), retry_policy=THRICE)
    name = await world.start()
    ended = await run_all(world, name)

    async def read(target: ExecutionName | FunctionName, **query: object) -> bytes:
        entries = world.services.executions.logs(target, LogQuery(**query))  # type: ignore[arg-type]
        return b"".join([entry.body.data async for entry in entries])  # type: ignore[union-attr]

    assert ended.attempt == 2
    assert await read(name) == b"attempt 2"
    assert await read(name, follow=True) == b"attempt 2"
    assert await read(name, attempt=1) == b"attempt 1"
    assert await read(name, attempt=1, follow=True) == b"attempt 1"
    assert await read(name, tail_lines=5) == b"attempt 2"
    assert await read(HELLO) == b"attempt 1attempt 2"
    with pytest.raises(OutOfRangeError, match="has had 2 attempts, not 3"):
        await read(name, attempt=3)


async def test_a_cancel_is_never_taken_back(world: World) -> None:
    """Not while it waits, and not when it comes together with a failure."""
    await world.deployed(program=fails(9), retry_policy=THRICE)
    name = await world.start()
    await world.idle()
    cancelled = await world.services.executions.cancel(name)
    assert (cancelled.state, cancelled.attempt) == (S.CANCELLED, 2)
    await world.ended(name)

    storing = world.disk.hold("append")
    name = await world.start()
    await until(lambda: (active := world.services.registry.get(name)) and active.ending)
    cancelling = asyncio.create_task(world.services.executions.cancel(name))
    await settle()
    storing.set()
    assert (await cancelling).state.final
    await world.ended(name)


async def test_a_function_that_is_deleted_takes_what_waits_along(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=THRICE)
    names = [await world.start() for _ in range(3)]
    await world.idle()
    await world.services.functions.delete(HELLO, etag="", force=True, key=None)
    for name in names:
        assert (await world.ended(name)).state is S.CANCELLED


async def test_what_is_lost_is_tried_again_by_the_next_process(world: World) -> None:
    await world.deployed(program=sleep, retry_policy=THRICE)
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    await settle()
    world.runtime.containers.program = fails(1)
    new = await world.restart()
    world.runtime.containers.present.clear()
    await new.services.recovery.run()
    await new.idle()
    waiting = await new.repositories.executions.get(name)
    assert (waiting.state, waiting.attempt) == (S.QUEUED, 2)
    (lost,) = await new.repositories.executions.attempts(name)
    assert lost.failure.reason is FailureReason.LOST
    ended = await run_all(new, name)
    assert (ended.state, ended.attempt) == (S.SUCCEEDED, 2)
    await new.engines.close()


async def test_what_waits_survives_a_restart(world: World) -> None:
    await world.deployed(program=fails(1), retry_policy=THRICE)
    name = await world.start()
    await world.idle()
    new = await world.restart()
    await new.services.recovery.run()
    assert new.services.registry.get(name) is None
    assert (await run_all(new, name)).state is S.SUCCEEDED
    await new.engines.close()


async def test_an_end_that_the_store_refuses_is_still_tried_again(world: World) -> None:
    await world.deployed(program=fails(1), retry_policy=THRICE)
    name = await world.start()
    world.disk.failures["append"] = StorageError("no disk")
    await asyncio.sleep(5)
    assert world.active(name).ending
    world.disk.failures.clear()
    ended = await run_all(world, name)
    (first,) = await world.services.executions.attempts(ended)
    assert first.failure.reason is FailureReason.INTERNAL
    assert (ended.state, ended.attempt) == (S.SUCCEEDED, 2)
