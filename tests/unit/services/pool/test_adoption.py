"""Instances that an earlier process left: which are taken over, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from skybridge_server.app import wire
from skybridge_server.contracts.base import Conversation
from skybridge_server.errors import ContainerStartError, RuntimeUnavailableError
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import Contract, ContractKind, Scaling
from skybridge_server.models.instances import InstanceRecord, InstanceState
from skybridge_server.models.paging import PageRequest
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.runtimes.base import Runtime
from skybridge_server.services.engines import Engines
from skybridge_server.services.pool.beginning import ADOPTION_SECONDS
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.pool.launcher import ContainerLauncher
from skybridge_server.services.pool.marks import MAGIC, RECORD_BYTES, Marks
from tests.fakes.repositories import FakeRepositories
from tests.fakes.runtime import IMAGE, FakeRuntime, sleep
from tests.limits import LIMITS
from tests.unit.services.pool.test_warm_runner import FakeConversation, TalkingLauncher, hang
from tests.unit.services.world import (
    BUSYBOX,
    HELLO,
    SERVER_ID,
    VirtualClock,
    World,
    maker_of,
    settle,
    until,
)

HTTP = Contract(ContractKind.HTTP)


class Server:
    """One process after the other, over the same store, engine and file of marks."""

    def __init__(self) -> None:
        self.repositories = FakeRepositories()
        self.runtime = FakeRuntime("docker")
        self.runtime.images.present[BUSYBOX] = IMAGE
        self.runtime.containers.program = sleep
        self.runtimes = {"docker": self.runtime}
        self.memory = bytearray(len(MAGIC) + 16 * RECORD_BYTES)
        self.world: World
        self.engines: list[Engines] = []
        self.talk = TalkingLauncher()

    async def start(self, **limits: Any) -> World:
        engines = Engines(self.runtimes, "docker")
        await engines.open()
        self.engines.append(engines)
        metrics, clock = CollectorRegistry(), VirtualClock()
        launcher = ContainerLauncher(
            engines, maker_of(engines), SERVER_ID, Marks(self.memory), self._converse
        )
        services = wire(
            self.repositories,
            engines,
            replace(LIMITS, **limits),
            metrics,
            SERVER_ID,
            clock,
            launcher,
        )
        self.world = World(self.repositories, self.runtime, engines, services, metrics, clock)
        return self.world

    async def _converse(self, _runtime: Runtime, instance: Instance) -> Conversation:
        return FakeConversation(self.talk, instance)

    async def leave(self) -> None:
        """End this process, and leave what does nothing to the next one."""
        await self.world.services.sweeper.close()
        await self.world.services.instances.close(ShutdownPolicy.HANDOVER)

    async def restart(self, **limits: Any) -> World:
        await self.leave()
        world = await self.start(**limits)
        await world.services.instances.open()
        await world.services.sweeper.open()
        return world

    async def end(self) -> None:
        """End it for good; nothing may be left."""
        await self.world.services.registry.close(0)
        await self.world.services.sweeper.close()
        await self.world.services.instances.close()
        await self.world.services.deployments.close()
        assert self.containers == set()
        assert Marks(self.memory).left == {}
        for engines in self.engines:
            await engines.close()

    @property
    def containers(self) -> set[str]:
        return {*self.runtime.containers.present}

    def instances(self) -> list[InstanceRecord]:
        page = self.world.services.instances.list("default", None, PageRequest(100))
        return [*page.items]


@pytest.fixture
async def server() -> AsyncGenerator[Server, None]:
    made = Server()
    await made.start()
    yield made
    await made.end()


async def idle(server: Server, **spec: Any) -> InstanceRecord:
    """Let HELLO have an idle instance that has done one execution."""
    await server.world.deployed(contract=HTTP, **spec)
    await server.world.execute()
    (instance,) = server.instances()
    return instance


async def test_it_goes_on_as_the_same_instance(server: Server) -> None:
    before = await idle(server)
    world = await server.restart()
    await until(server.instances)
    execution = await world.execute()
    assert (execution.instance, execution.cold_start) == (before.name.instance, False)
    (after,) = server.instances()
    assert after == replace(before, executions=2, last_used_time=after.last_used_time)
    assert len(server.runtime.containers.created) == 1


async def test_it_goes_on_as_often_as_it_is_left(server: Server) -> None:
    before = await idle(server)
    for _ in range(3):
        await server.restart()
        await until(server.instances)
    (after,) = server.instances()
    assert (after.name, after.executions) == (before.name, 1)


async def test_what_comes_meanwhile_waits_for_it(server: Server) -> None:
    before = await idle(server, scaling=Scaling(min_instances=1))
    server.runtime.gate.hold("list")
    world = await server.restart()
    name = await world.start()
    await settle()
    assert world.active(name).journal.execution.state is ExecutionState.QUEUED
    server.runtime.gate.held.pop("list").set()
    execution = await world.ended(name)
    assert (execution.instance, execution.cold_start) == (before.name.instance, False)
    assert len(server.runtime.containers.created) == 1


async def test_what_had_no_execution_yet_is_no_cold_start_for_the_next_process(
    server: Server,
) -> None:
    await server.world.deployed(contract=HTTP, scaling=Scaling(min_instances=1))
    server.runtime.gate.hold("list")
    world = await server.restart()
    name = await world.start()
    server.runtime.gate.held.pop("list").set()
    execution = await world.ended(name)
    assert (execution.cold_start, execution.timings.init) == (False, None)


async def test_what_was_paused_runs_again(server: Server) -> None:
    before = await idle(server, scaling=Scaling(pause_after=timedelta(seconds=1)))
    await until(lambda: server.instances()[0].state is InstanceState.PAUSED)
    (container,) = server.runtime.containers.present.values()
    await until(lambda: container.paused)
    world = await server.restart()
    await until(server.instances)
    assert (await world.execute()).instance == before.name.instance
    assert not container.paused


async def test_a_stop_before_they_are_looked_for_leaves_them(server: Server) -> None:
    before = await idle(server)
    looking = server.runtime.gate.hold("list")
    await server.restart()
    await server.leave()
    looking.set()
    await server.restart()
    await until(server.instances)
    assert [each.name for each in server.instances()] == [before.name]


async def disabled(world: World) -> None:
    await world.services.functions.set_enabled(HELLO, False, etag="", key=None)


async def deleted(world: World) -> None:
    await world.services.functions.delete(HELLO, etag="", force=False, key=None)


async def deployed_again(world: World) -> None:
    await world.deploy()


async def made_anew(world: World) -> None:
    await deleted(world)
    await world.deployed(contract=HTTP)


async def ended_meanwhile(world: World) -> None:
    (container,) = world.runtime.containers.present.values()
    container.kill()
    await container.ended.wait()


@pytest.mark.parametrize("change", [disabled, deleted, deployed_again, made_anew, ended_meanwhile])
async def test_what_is_not_needed_is_removed(
    server: Server, change: Callable[[World], Awaitable[None]]
) -> None:
    await idle(server)
    await server.leave()
    await change(server.world)
    await server.start()
    await server.world.services.instances.open()
    assert await server.world.services.sweeper.sweep() == 1
    assert server.containers == set()
    assert server.instances() == []


async def test_no_more_are_taken_over_than_there_may_be(server: Server) -> None:
    await server.world.deployed(contract=HTTP, scaling=Scaling(min_instances=3))
    oldest = min(each.name for each in server.instances())
    await server.restart(max_instances=1)
    await until(lambda: len(server.containers) == 1)
    await settle()
    (instance,) = server.instances()
    assert instance.name == oldest


async def test_one_that_does_not_answer_is_replaced(server: Server) -> None:
    before = await idle(server)
    server.runtime.gate.failures["adopt"] = ContainerStartError("its network is gone")
    world = await server.restart()
    execution = await world.execute()
    assert execution.state is ExecutionState.SUCCEEDED
    assert execution.instance != before.name.instance
    await until(lambda: server.containers == {each.container_id for each in server.instances()})


async def test_nobody_waits_long_for_one_that_hangs(server: Server) -> None:
    before = await idle(server)
    server.runtime.gate.hold("adopt")
    loop = asyncio.get_running_loop()
    began = loop.time()
    world = await server.restart()
    execution = await world.execute()
    assert execution.instance != before.name.instance
    assert loop.time() - began < ADOPTION_SECONDS + 2
    await until(lambda: server.containers == {each.container_id for each in server.instances()})


async def test_if_the_engine_does_not_tell_all_is_started_anew(server: Server) -> None:
    before = await idle(server)
    server.runtime.gate.failures["list"] = RuntimeUnavailableError("too busy")
    world = await server.restart()
    assert (await world.execute()).instance != before.name.instance
    del server.runtime.gate.failures["list"]
    assert await world.services.sweeper.sweep() == 1


async def test_an_engine_that_is_away_holds_up_no_other(server: Server) -> None:
    before = await idle(server)
    await server.leave()
    await ended_meanwhile(server.world)
    server.runtimes["other"] = FakeRuntime("other")
    server.runtimes["other"].gate.away = True
    world = await server.restart()
    execution = await world.execute()
    assert execution.state is ExecutionState.SUCCEEDED
    assert execution.instance != before.name.instance
    await world.services.instances.close()
    server.runtimes["other"].gate.away = False
    await until(lambda: not Marks(bytearray(server.memory)).left)


async def test_what_worked_on_something_is_never_left(server: Server) -> None:
    await idle(server)
    server.talk.program = hang
    name = await server.world.start()
    await server.world.reaches(name, ExecutionState.RUNNING)
    assert Marks(bytearray(server.memory)).left == {}
    await server.leave()
    assert server.containers == set()


async def test_a_server_that_ends_all_leaves_nothing(server: Server) -> None:
    await idle(server)
    await server.world.services.instances.close()
    assert (server.containers, Marks(bytearray(server.memory)).left) == (set(), {})


async def test_a_lambda_runtime_is_never_left(server: Server) -> None:
    await server.world.deployed(contract=Contract(ContractKind.LAMBDA))
    await server.world.execute()
    assert Marks(bytearray(server.memory)).left == {}
    await server.leave()
    assert server.containers == set()
