"""The pool: instances where they are needed, never more than the budget, and none left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from skybridge_server.errors import (
    FailedPreconditionError,
    InitError,
    NotFoundError,
    StartTimeoutError,
)
from skybridge_server.models.functions import MIB, Resources, Reuse, Timeouts
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.journal import OutputStream
from skybridge_server.models.names import InstanceName
from skybridge_server.services.pool.budget import Cost
from tests.unit.services.pool.kit import Kit, dies, revision, uid_of
from tests.unit.services.world import settle, until

F, G = revision("f"), revision("g")


def budget(instances: int) -> Cost:
    return Cost(instances, instances * 128 * MIB, instances * 1000)


@pytest.fixture
async def kit() -> AsyncGenerator[Kit, None]:
    made = Kit()
    yield made
    await close(made)


async def close(kit: Kit) -> None:
    kit.launcher.may_start.set()
    kit.launcher.may_remove.set()
    await kit.pool.close()
    assert not kit.launcher.present
    assert kit.pool._budget.taken == kit.pool._budget.leaving == Cost()


async def test_the_first_execution_starts_an_instance_and_the_next_ones_reuse_it(kit: Kit) -> None:
    first = await kit.run(F)
    assert [await kit.run(F) for _ in range(3)] == [first] * 3
    assert first.executions == 4
    assert kit.states() == {"IDLE": 1}


async def test_an_execution_knows_that_an_instance_is_started_for_it(kit: Kit) -> None:
    cold = kit.enter(F)
    assert not cold.covered.is_set()
    await settle()
    assert cold.covered.is_set()
    assert not cold.turn.is_set()
    await kit.seated(cold)
    cold.release()
    warm = kit.enter(F)
    assert warm.turn.is_set()
    warm.release()


async def test_instances_are_started_for_those_that_wait_and_no_more(kit: Kit) -> None:
    tickets = [kit.enter(F) for _ in range(3)]
    await settle()
    assert kit.states() == {"STARTING": 3}
    for ticket in tickets:
        await kit.seated(ticket)
        ticket.release()
    await asyncio.gather(*(kit.run(F) for _ in range(3)))
    assert len(kit.launcher.started) == 3


async def test_an_instance_that_becomes_free_serves_who_waits_for_one_that_starts(kit: Kit) -> None:
    busy = kit.enter(F)
    instance = await kit.seated(busy)
    kit.launcher.may_start.clear()
    waits = kit.enter(F)
    await settle()
    assert waits.covered.is_set()
    busy.release()
    assert await kit.seated(waits) is instance
    waits.release()


async def test_an_instance_takes_as_many_at_once_as_it_may(kit: Kit) -> None:
    wide = revision("wide", instance_concurrency=3)
    tickets = [kit.enter(wide) for _ in range(4)]
    instances = [await kit.seated(ticket) for ticket in tickets]
    assert len(kit.launcher.started) == 2
    assert sorted(instances.count(each) for each in {*instances}) == [1, 3]
    for ticket in tickets:
        ticket.release()


async def test_a_revision_has_no_more_instances_than_it_may(kit: Kit) -> None:
    narrow = revision("narrow", max_instances=2)
    tickets = [kit.enter(narrow) for _ in range(5)]
    for ticket in tickets:
        await kit.seated(ticket)
        assert len(kit.launcher.present) <= 2
        ticket.release()
    assert len(kit.launcher.started) == 2


async def test_no_instance_starts_for_those_that_may_not_run_yet(kit: Kit) -> None:
    limited = revision("limited", max_concurrency=1)
    first, second = kit.enter(limited), kit.enter(limited)
    instance = await kit.seated(first)
    await settle()
    assert len(kit.launcher.started) == 1
    first.release()
    assert await kit.seated(second) is instance
    second.release()


async def test_so_many_start_at_once_and_functions_take_turns() -> None:
    kit = Kit(max_starts=2)
    functions = [revision(f"f{n}") for n in range(3)]
    tickets = [kit.enter(of) for of in functions for _ in range(2)]
    await asyncio.gather(*(kit.seated(ticket) for ticket in tickets))
    order = [each.revision.name.function.function for each in kit.launcher.started]
    assert order == ["f0", "f1", "f2", "f0", "f1", "f2"]
    assert kit.launcher.most_starting == 2
    for ticket in tickets:
        ticket.release()
    await close(kit)


# --- reuse --------------------------------------------------------------------------------------


async def test_an_instance_that_is_not_reused_takes_one_execution(kit: Kit) -> None:
    once = revision("once", reuse=Reuse.NEVER)
    assert len({await kit.run(once) for _ in range(3)}) == 3
    await until(lambda: not kit.launcher.present)


async def test_an_instance_is_replaced_after_so_many_executions(kit: Kit) -> None:
    worn = revision("worn", max_executions_per_instance=2)
    instances = [await kit.run(worn) for _ in range(4)]
    assert instances[0] is instances[1] is not instances[2] is instances[3]
    assert instances[0].state is InstanceState.STOPPING


async def test_what_runs_on_an_instance_that_is_retired_goes_on(kit: Kit) -> None:
    ticket = kit.enter(F)
    instance = await kit.seated(ticket)
    instance.retire()
    await settle()
    assert instance in kit.launcher.present
    other = await kit.run(F)
    assert other is not instance
    ticket.release()
    await until(lambda: instance not in kit.launcher.present)


async def test_an_idle_instance_whose_container_ends_is_not_handed_out(kit: Kit) -> None:
    instance = await kit.run(F)
    dies(instance)
    assert await kit.run(F) is not instance


# --- starts that fail ---------------------------------------------------------------------------


async def test_a_start_that_fails_fails_the_execution_that_it_was_for(kit: Kit) -> None:
    kit.launcher.failures = [InitError("no such module")]
    bad, good = kit.enter(F), kit.enter(F)
    with pytest.raises(InitError, match="no such module"):
        await kit.seated(bad)
    await kit.seated(good)
    assert (kit.slots.running, kit.slots.queued) == (1, 0)
    bad.release()
    good.release()


async def test_an_instance_that_ends_before_it_is_ready_says_how(kit: Kit) -> None:
    kit.launcher.may_start.clear()
    ticket = kit.enter(F)
    await until(lambda: kit.launcher.started)
    await kit.launcher.started[0].log.add(OutputStream.STDERR, b"ImportError: x\n")
    dies(kit.launcher.started[0], code=1)
    with pytest.raises(InitError, match=r"exit code 1; it wrote: ImportError: x"):
        await kit.seated(ticket)


async def test_an_instance_that_never_gets_ready_is_given_up(kit: Kit) -> None:
    kit.launcher.may_start.clear()
    hangs = revision("hangs", timeouts=Timeouts(start=timedelta(seconds=2)))
    with pytest.raises(StartTimeoutError, match=r"within spec.timeouts.start \(2 s\)"):
        await kit.seated(kit.enter(hangs))


async def test_a_starting_instance_that_is_stopped_is_replaced_for_those_that_wait(
    kit: Kit,
) -> None:
    kit.launcher.may_start.clear()
    ticket = kit.enter(F)
    await until(lambda: kit.launcher.started)
    kit.launcher.started[0].retire()
    kit.launcher.may_start.set()
    assert await kit.seated(ticket) is kit.launcher.started[1]
    ticket.release()


async def test_who_gives_up_leaves_an_instance_for_the_next(kit: Kit) -> None:
    impatient = kit.enter(F)
    await settle()
    impatient.release()
    await until(lambda: kit.states() == {"IDLE": 1})
    await kit.run(F)
    assert len(kit.launcher.started) == 1


async def test_executions_wait_for_an_engine_that_went_away(kit: Kit) -> None:
    kit.launcher.answers = False
    ticket = kit.enter(F)
    await asyncio.sleep(10)
    assert not kit.launcher.started
    kit.launcher.answers = True
    await kit.seated(ticket)
    ticket.release()


# --- the budget ---------------------------------------------------------------------------------


async def test_the_longest_idle_instance_makes_room() -> None:
    kit = Kit(budget(2))
    oldest = await kit.run(F)
    newer = await kit.run(G)
    await kit.run(revision("h"))
    assert oldest not in kit.launcher.present
    assert newer in kit.launcher.present
    assert kit.launcher.most_present == 2
    assert kit.pool.evictions == 1
    await close(kit)


async def test_memory_and_processors_are_bounded_like_instances() -> None:
    kit = Kit(Cost(10, 512 * MIB, 10_000))
    for function, memory in (("a", 256), ("b", 256), ("c", 384)):
        await kit.run(revision(function, resources=Resources(memory_bytes=memory * MIB)))
    assert [each.revision.name.function.function for each in kit.launcher.present] == ["c"]
    await close(kit)


async def test_room_is_free_only_once_a_container_is_gone() -> None:
    kit = Kit(budget(1))
    await kit.run(F)
    kit.launcher.may_remove.clear()
    waits = kit.enter(G)
    await settle()
    assert len(kit.launcher.started) == 1
    kit.launcher.may_remove.set()
    await kit.seated(waits)
    assert kit.launcher.most_present == 1
    waits.release()
    await close(kit)


async def test_a_function_that_is_always_busy_yields_to_one_without_instances() -> None:
    kit = Kit(budget(1))

    async def keep_busy() -> None:
        while True:
            ticket = kit.enter(F)
            try:
                await kit.seated(ticket)
                await asyncio.sleep(0.01)
            finally:
                ticket.release()

    busy = [asyncio.create_task(keep_busy()) for _ in range(3)]
    await until(lambda: kit.launcher.started)
    await kit.run(G)
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    await close(kit)


async def test_300_callers_of_50_functions_get_their_answers_from_10_instances() -> None:
    kit = Kit(budget(10), max_running=32)
    functions = [revision(f"f{n}") for n in range(50)]

    async def call(number: int) -> None:
        of = functions[number % 50]
        instance = await kit.run(of)
        assert instance.revision is of

    await asyncio.gather(*(call(number) for number in range(300)))
    assert kit.launcher.most_present == 10
    assert len(kit.launcher.started) <= 60
    await close(kit)


# --- idle instances -----------------------------------------------------------------------------


async def test_an_instance_is_removed_after_its_idle_time(kit: Kit) -> None:
    brief = revision("brief", timeouts=Timeouts(idle=timedelta(seconds=30)))
    instance = await kit.run(brief)
    await asyncio.sleep(29)
    assert instance in kit.launcher.present
    await asyncio.sleep(2)
    assert not kit.launcher.present
    assert instance.polite


async def test_an_instance_is_paused_after_a_while(kit: Kit) -> None:
    lazy = revision("lazy", pause_after=timedelta(seconds=1))
    instance = await kit.run(lazy)
    await until(lambda: instance.state is InstanceState.PAUSED)
    await asyncio.sleep(5)
    assert kit.launcher.paused == [instance]
    assert await kit.run(lazy) is instance
    assert instance.state is InstanceState.IDLE


# --- deployments --------------------------------------------------------------------------------


async def test_a_deployment_waits_for_the_minimum(kit: Kit) -> None:
    warm = revision("warm", min_instances=2)
    await kit.pool.warm(uid_of(warm), warm)
    kit.pool.activate(uid_of(warm), warm)
    assert kit.states() == {"IDLE": 2}
    ticket = kit.enter(warm)
    assert ticket.turn.is_set()
    ticket.release()
    await asyncio.sleep(3600)
    assert kit.states() == {"IDLE": 2}


async def test_a_deployment_whose_instances_do_not_start_fails_and_leaves_nothing(kit: Kit) -> None:
    kit.launcher.failures = [InitError("it wrote: oops")]
    warm = revision("warm", min_instances=2)
    with pytest.raises(FailedPreconditionError, match=r"not activated.*oops") as caught:
        await kit.pool.warm(uid_of(warm), warm)
    assert caught.value.reason == "INSTANCES_NOT_READY"
    await until(lambda: not kit.launcher.present)


async def test_a_deployment_gives_up_where_there_is_no_room() -> None:
    kit = Kit(budget(1))
    busy = kit.enter(F)
    await kit.seated(busy)
    warm = revision("warm", min_instances=1)
    with pytest.raises(FailedPreconditionError, match="no room"):
        await kit.pool.warm(uid_of(warm), warm)
    busy.release()
    await close(kit)


async def test_the_minimum_is_kept_up(kit: Kit) -> None:
    warm = revision("warm", min_instances=1)
    kit.pool.activate(uid_of(warm), warm)
    await until(lambda: kit.states() == {"IDLE": 1})
    kit.launcher.failures = [InitError("once"), InitError("twice")]
    dies(next(iter(kit.pool)))
    await until(lambda: kit.states() == {"IDLE": 1})
    assert len(kit.launcher.started) == 4


async def test_a_minimum_makes_room_for_others_and_comes_back() -> None:
    kit = Kit(budget(1))
    warm = revision("warm", min_instances=1)
    kit.pool.activate(uid_of(warm), warm)
    await until(lambda: kit.states() == {"IDLE": 1})
    other = revision("other", reuse=Reuse.NEVER)
    await kit.run(other)
    await until(
        lambda: (
            [each.revision for each in kit.launcher.present] == [warm]
            and kit.states() == {"IDLE": 1}
        )
    )
    await close(kit)


async def test_a_new_revision_takes_over_and_the_old_one_drains(kit: Kit) -> None:
    old, new = revision("f", 1), revision("f", 2, min_instances=1)
    await kit.run(old)
    running, late = kit.enter(old), kit.enter(old)
    on_old = await kit.seated(running)
    await kit.pool.warm(uid_of(new), new)
    kit.pool.activate(uid_of(new), new)
    assert (await kit.run(new)).revision is new
    assert (await kit.seated(late)).revision is old
    assert on_old in kit.launcher.present
    running.release()
    late.release()
    await until(lambda: [each.revision for each in kit.launcher.present] == [new])


async def test_a_disabled_function_keeps_nothing(kit: Kit) -> None:
    warm = revision("warm", min_instances=1)
    kit.pool.activate(uid_of(warm), warm)
    await kit.run(warm)
    kit.pool.drain(uid_of(warm))
    await until(lambda: not kit.launcher.present)
    kit.pool.activate(uid_of(warm), warm)
    await until(lambda: kit.states() == {"IDLE": 1})
    kit.pool.forget(uid_of(warm))
    await until(lambda: not kit.launcher.present and not kit.pool._fleets)
    assert not kit.pool._active


# --- seeing it ----------------------------------------------------------------------------------


async def test_instances_are_known_by_name_until_they_are_removed(kit: Kit) -> None:
    instance = await kit.run(F)
    assert kit.pool.get(instance.name) is instance
    assert kit.pool.owns(str(instance.name))
    assert instance.record().state is InstanceState.IDLE
    instance.retire()
    assert instance.record().state is InstanceState.STOPPING
    await until(lambda: not kit.launcher.present)
    await settle()
    with pytest.raises(NotFoundError):
        kit.pool.get(instance.name)
    assert not kit.pool.owns(str(instance.name))
    with pytest.raises(NotFoundError):
        kit.pool.get(InstanceName("default", "other"))


async def test_a_stop_removes_all_instances_whatever_they_do() -> None:
    kit = Kit()
    await kit.run(F)
    kit.enter(G)
    busy = kit.enter(revision("h"))
    await kit.seated(busy)
    kit.enter(revision("i"))
    await settle()
    await close(kit)
