"""What is counted of executions, and what the server says of itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

from skybridge_server.errors import NotFoundError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import ContractKind, Scaling
from skybridge_server.models.names import FunctionName
from skybridge_server.models.retries import RetryPolicy
from tests.fakes.runtime import says, sleep
from tests.unit.services.test_retries import run_all
from tests.unit.services.world import HELLO, World, sample, settle


async def test_executions_are_counted_by_how_they_end(world: World) -> None:
    await world.deployed(program=says())
    for code in (0, 0, 3):
        world.runtime.containers.program = says(code=code)
        await world.run()
    world.runtime.containers.program = None
    await world.run()
    await world.idle()

    function = str(HELLO)
    counts = [
        sample(world, "executions_total", function=function, state=state, reason=reason)
        for state, reason in (
            ("SUCCEEDED", ""),
            ("FAILED", "EXIT_CODE"),
            ("FAILED", "ENTRY_POINT"),
            ("FAILED", "LOST"),
        )
    ]
    assert counts == [2, 1, 1, None]
    assert sample(world, "coldstarts_total", function=function) == 3
    for phase, times in (("queue", 4), ("start", 3), ("run", 3), ("total", 4)):
        name = "execution_phase_duration_seconds_count"
        assert sample(world, name, function=function, phase=phase) == times


async def test_retries_and_dead_letters_are_counted(world: World) -> None:
    policy = RetryPolicy(max_attempts=3, dead_letters=True)
    await world.deployed(program=says(code=9), retry_policy=policy)
    await run_all(world, await world.start())
    world.runtime.containers.program = says()
    await world.run()
    await world.idle()
    function = str(HELLO)
    assert sample(world, "retries_total", function=function) == 2
    assert sample(world, "dead_letters_total", function=function) == 1


async def test_load(world: World) -> None:
    await world.deployed(program=sleep, scaling=Scaling(max_concurrency=1))
    for _ in range(3):
        await world.start()
    await settle()
    assert (sample(world, "executions_running"), sample(world, "executions_queued")) == (1, 2)
    info = world.services.system.info()
    assert (info.running_executions, info.queued_executions) == (1, 2)
    assert info.contracts == tuple(ContractKind)
    assert info.default_runtime == "docker"
    (status,) = await world.services.system.runtimes()
    assert (status.name, status.ready) == ("docker", True)


async def test_sums_over_a_function(world: World) -> None:
    await world.deployed(program=says(code=1))
    await world.run()
    metrics = await world.services.metrics.function(HELLO, timedelta(hours=1))
    assert metrics.executions == 1
    assert metrics.states[ExecutionState.FAILED] == 1
    assert metrics.failures == {FailureReason.EXIT_CODE: 1}
    with pytest.raises(NotFoundError):
        await world.services.metrics.function(FunctionName("default", "no"), timedelta(hours=1))
