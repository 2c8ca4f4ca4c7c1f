"""Dead letters: which executions become one, and what can be done with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skybridge_server.errors import FailedPreconditionError, NotFoundError
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Contract, Function, InputMode
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.paging import DeadLetterQuery, PageRequest
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services import dead_letters as module
from skybridge_server.services.requests import FunctionDraft
from tests.fakes.runtime import says, sleep
from tests.unit.services.test_retries import THRICE, fails, run_all
from tests.unit.services.world import HELLO, World, settle

S = ExecutionState
KEPT = RetryPolicy(dead_letters=True)
QUERY = DeadLetterQuery("default")


async def dead(world: World, name: FunctionName = HELLO, **fields: object) -> ExecutionName:
    execution = await world.start(name, **fields)
    await world.ended(execution)
    return execution


async def names(world: World) -> list[ExecutionName]:
    page = await world.services.dead_letters.list(QUERY, PageRequest(100))
    return [letter.name for letter in page.items]


async def test_what_has_no_attempt_left_is_one(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=replace(THRICE, dead_letters=True))
    name = await world.start(input=b"precious")
    await world.idle()
    assert await names(world) == []  # it may still succeed
    await run_all(world, name)
    letter = await world.services.dead_letters.get(name)
    assert (letter.execution.state, letter.execution.attempt) == (S.FAILED, 3)
    assert letter.execution.failure is not None
    assert letter.execution.failure.reason is FailureReason.EXIT_CODE
    assert await world.services.dead_letters.input(letter) == b"precious"


async def test_what_is_not_tried_again_is_one(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world)
    assert await names(world) == [name]


async def test_what_is_lost_for_good_is_one(world: World) -> None:
    await world.deployed(program=sleep, retry_policy=KEPT)
    name = await world.start()
    await world.reaches(name, S.RUNNING)
    await settle()
    new = await world.restart()
    world.runtime.containers.present.clear()
    await new.services.recovery.run()
    await new.idle()
    assert await names(new) == [name]
    await new.engines.close()


async def test_these_are_none(world: World) -> None:
    await world.deployed(program=fails(9))
    await dead(world)  # nobody asked for dead letters
    kept = await world.deployed(FunctionName("default", "kept"), retry_policy=KEPT)
    await world.execute(kept)  # somebody waited
    world.runtime.containers.program = sleep
    name = await world.start(kept)
    await world.services.executions.cancel(name)  # somebody wanted it
    await world.ended(name)
    world.runtime.containers.program = says()
    await dead(world, kept)  # it succeeded
    assert await names(world) == []


async def test_a_redrive_runs_it_again(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world, input=b"precious", labels={"team": "blue"})
    world.runtime.containers.program = says(b"done")
    await world.deploy()
    new = await world.services.dead_letters.redrive(name)
    assert new != name
    await world.services.delays.run_due()
    ended = await world.ended(new)
    assert (ended.state, ended.revision, ended.background) == (S.SUCCEEDED, 2, True)
    assert ended.labels == {"team": "blue", module.REDRIVE_LABEL: name.execution}
    assert await world.repositories.executions.get_input(new) == b"precious"
    assert await world.services.dead_letters.redrive(name) == new
    assert await names(world) == []


async def test_a_redrive_survives_a_restart(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world)
    made = await world.services.dead_letters.redrive(name)
    new = await world.restart()
    await new.services.recovery.run()
    new.runtime.containers.program = says()
    assert await new.services.dead_letters.redrive(name) == made
    await new.services.delays.run_due()
    assert (await new.ended(made)).state is S.SUCCEEDED
    await new.engines.close()


async def test_many_are_redriven_page_by_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    await world.deployed(program=fails(9), retry_policy=KEPT)
    gone = await world.deployed(FunctionName("default", "gone"), retry_policy=KEPT)
    lost = await dead(world, gone)
    mine = [await dead(world) for _ in range(4)]
    await world.services.functions.delete(gone, etag="", force=False, key=None)
    made: list[ExecutionName] = []
    refused: list[tuple[ExecutionName, str]] = []
    after = None
    while True:
        done = await world.services.dead_letters.redrive_all(QUERY, after)
        made += done.executions
        refused += done.refused
        after = done.next
        if after is None:
            break
    assert len(set(made)) == len(mine)
    ((name, why),) = refused
    assert name == lost
    assert "does not exist" in why
    assert await names(world) == [lost]


async def test_a_redrive_that_cannot_be_leaves_it(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world)
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)
    with pytest.raises(FailedPreconditionError, match="disabled"):
        await world.services.dead_letters.redrive(name)
    with pytest.raises(NotFoundError):
        await world.services.dead_letters.redrive(ExecutionName("default", "nobody"))
    assert await names(world) == [name]


async def test_an_input_that_the_function_no_longer_takes_is_refused(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world, input=b"\xff")

    def by_variable(function: Function) -> FunctionDraft:
        return FunctionDraft(replace(function.spec, contract=Contract(input=InputMode.ENV)))

    await world.services.functions.update(
        HELLO, by_variable, etag="", key=None, validate_only=False
    )
    await world.deploy()
    done = await world.services.dead_letters.redrive_all(QUERY, None)
    assert [each for each, _ in done.refused] == [name]


async def test_a_purge_deletes_them(world: World) -> None:
    await world.deployed(program=fails(9), retry_policy=KEPT)
    name = await dead(world)
    assert await world.services.dead_letters.purge(QUERY) == 1
    with pytest.raises(NotFoundError):
        await world.services.executions.get(name)
