"""Instances that their engine shall freeze, and does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from itertools import pairwise

import pytest

from skybridge_server.errors import PauseUnsupportedError, RuntimeUnavailableError
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import Scaling
from skybridge_server.models.instances import InstanceState
from skybridge_server.services.pool.instances import LONGEST_PAUSE
from tests.fakes.runtime import FakeContainer
from tests.unit.services.pool.test_adoption import HTTP, Server
from tests.unit.services.world import settle, until

BUSY = RuntimeUnavailableError("the container engine failed: unable to freeze")
LAZY = Scaling(min_instances=1, pause_after=timedelta(seconds=1))


@pytest.fixture
async def server() -> AsyncGenerator[Server, None]:
    made = Server()
    await made.start()
    yield made
    await made.end()


async def refused(server: Server, error: Exception) -> FakeContainer:
    """Let HELLO have an instance that could not be paused once."""
    server.runtime.gate.failures["pause"] = error
    await server.world.deployed(contract=HTTP, scaling=LAZY)
    await server.runtime.gate.seen("pause").wait()
    await settle()
    (container,) = server.runtime.containers.present.values()
    return container


def tried(server: Server) -> asyncio.Event:
    """Return what is set when it is tried again to pause something."""
    server.runtime.gate.entered.pop("pause")
    return server.runtime.gate.seen("pause")


async def test_a_pause_that_failed_is_tried_again(server: Server) -> None:
    container = await refused(server, BUSY)
    assert server.instances()[0].state is InstanceState.IDLE
    assert not container.paused
    del server.runtime.gate.failures["pause"]
    await until(lambda: container.paused)
    assert server.instances()[0].state is InstanceState.PAUSED


async def test_it_is_tried_ever_more_seldom_while_nobody_comes(server: Server) -> None:
    await refused(server, BUSY)
    moments = []
    for _ in range(9):
        await tried(server).wait()
        moments.append(asyncio.get_running_loop().time())
        await settle()
    pauses = [after - before for before, after in pairwise(moments)]
    assert pauses == sorted(pauses)
    assert LONGEST_PAUSE <= pauses[-1] < LONGEST_PAUSE + 1


async def test_it_is_tried_when_it_is_idle_next(server: Server) -> None:
    container = await refused(server, BUSY)
    for _ in range(9):
        await tried(server).wait()
        await settle()
    del server.runtime.gate.failures["pause"]
    began = asyncio.get_running_loop().time()
    await server.world.execute()
    await until(lambda: container.paused)
    assert asyncio.get_running_loop().time() - began < 2


async def test_what_may_be_paused_is_let_run_before_it_is_used(server: Server) -> None:
    """The engine may have done what it was asked, and not have said so."""
    container = await refused(server, BUSY)
    container.paused = True
    assert (await server.world.execute()).state is ExecutionState.SUCCEEDED
    assert not container.paused


async def test_an_engine_that_cannot_pause_is_asked_once(server: Server) -> None:
    await refused(server, PauseUnsupportedError("freezer is not supported"))
    again = tried(server)
    await asyncio.sleep(2 * LONGEST_PAUSE)
    await server.world.execute()
    await asyncio.sleep(2 * LONGEST_PAUSE)
    assert not again.is_set()
    assert server.instances()[0].state is InstanceState.IDLE
