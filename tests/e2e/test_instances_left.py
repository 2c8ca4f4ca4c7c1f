"""Instances that a server leaves: the next one takes over those that did nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import docker
import pytest

from skybridge_client import AsyncClient
from skybridge_client.messages import Instance, InstanceState
from tests.support.functions import RUNNING, deploy_python, reach, told
from tests.support.http_function import LAMBDA, deploy_http
from tests.support.server import Server
from tests.support.waiting import until, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
IDLE = InstanceState.INSTANCE_STATE_IDLE
PAUSED = InstanceState.INSTANCE_STATE_PAUSED


async def kill(server: Server) -> None:
    await asyncio.to_thread(server.kill)


async def start(server: Server) -> None:
    await asyncio.to_thread(server.start)


async def stop(server: Server) -> None:
    await asyncio.to_thread(server.stop)


async def instance_of(client: AsyncClient, function: str) -> Instance:
    (found,) = [each async for each in client.list_instances(function=function)]
    return found


async def reaches(client: AsyncClient, function: str, state: int) -> bool:
    return (await instance_of(client, function)).state == state


def container_ids(server: Server) -> set[str]:
    return {str(each.id) for each in server.containers()}


def marks(server: Server) -> Path:
    return Path(server.setting("FAAS_DATABASE") + "-instances")


@pytest.mark.parametrize(("network", "way"), [("none", "auto"), ("egress", "relay")])
async def test_an_idle_instance_is_taken_over(
    serve: Serve, network: Literal["none", "egress"], way: str
) -> None:
    server = serve(FAAS_PORT_ACCESS=way)
    async with AsyncClient(server.address) as client:
        name = await deploy_http(client, network=network)
        for word in (b"say one", b"say two"):
            await client.execute(name, word)
        before = await client.execute(name, b"who")
        found = await instance_of(client, name)
        for _ in range(2):  # it may be left more than once
            await kill(server)
            await start(server)
            after = await client.execute(name, b"who")
            assert (after.output, after.instance) == (before.output, before.instance)
            assert (after.cold_start, after.log_tail) == (False, b"")
        assert (await client.execute(name, b"say three")).log_tail in {b"three\n", b""}
        again = await client.get_instance(before.instance)
        assert again.executions == 6
        assert (again.container, again.create_time) == (found.container, found.create_time)
        assert (again.init, again.log_tail.count(b"o")) == (found.init, 0)
        interfaces = (await client.execute(name, b"interfaces")).output
        assert (b"eth0" in interfaces) is (network == "egress")
    await stop(server)


async def test_only_what_did_nothing_is_taken_over(
    serve: Serve, docker_client: docker.DockerClient
) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        paused = await deploy_http(client, pause_after=0.25, min_instances=1)
        unused = await deploy_http(client, min_instances=1)
        busy = await deploy_http(client, shutdown_grace=0)
        dead = await deploy_http(client)
        lambda_ = await deploy_python(client, LAMBDA, contract="lambda", shutdown_grace=0)
        who = {name: (await client.execute(name, b"who")).output for name in (paused, busy, dead)}
        assert (await client.execute(lambda_, b"1")).output == b'{"served": 1, "got": 1}'
        waits = await client.start(busy, b"wait")
        await reach(client, waits.name, RUNNING)
        await until(partial(reaches, client, paused, PAUSED), "an instance to be paused")
        before = {name: await instance_of(client, name) for name in (*who, unused)}
        await kill(server)
        docker_client.containers.get(before[dead].container).kill()
        await start(server)
        for name in (paused, unused):
            after = await client.execute(name, b"who")
            assert (after.instance, after.cold_start) == (before[name].name, False)
            assert after.output == who.get(name, after.output)
        for name in (busy, dead):
            after = await client.execute(name, b"who")
            assert told(after)[0] == "SUCCEEDED"
            assert after.output != who[name]
        assert (await client.execute(lambda_, b"2")).output == b'{"served": 1, "got": 2}'
        assert told(await client.wait(waits.name)) == ("FAILED", "LOST")
        gone = {before[name].container for name in (busy, dead)}
        await until_true(lambda: not gone & container_ids(server), "what is of no use to go")
    await stop(server)


async def until_true(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what)


async def test_without_its_marks_nothing_is_taken_over(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy_http(client)
        before = await client.execute(name, b"who")
        left = container_ids(server)
        await kill(server)
        marks(server).write_bytes(b"garbage")
        await start(server)
        after = await client.execute(name, b"who")
        assert (after.output != before.output, after.cold_start) == (True, True)
        await until_true(lambda: not left & container_ids(server), "what was left to go")
    await stop(server)


async def test_a_server_that_hands_over_leaves_its_idle_instances(serve: Serve) -> None:
    server = serve(FAAS_ON_SHUTDOWN="handover", FAAS_SHUTDOWN_GRACE="100ms")
    async with AsyncClient(server.address) as client:
        name = await deploy_http(client)
        busy = await deploy_http(client, shutdown_grace=0)
        before = await client.execute(name, b"who")
        waits = await client.start(busy, b"wait")
        await reach(client, waits.name, RUNNING)
        left = {(await instance_of(client, name)).container}
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        assert container_ids(server) == left
        assert len(server.sandboxes()) == 1
        other = serve()
        async with AsyncClient(other.address) as others:
            await others.execute(await deploy_http(others))
        await stop(other)
        server.set(FAAS_ON_SHUTDOWN="cancel")
        await start(server)
        after = await client.execute(name, b"who")
        assert (after.output, after.instance) == (before.output, before.instance)
        assert told(await client.wait(waits.name)) == ("CANCELLED", "CANCELLED")
    await stop(server)
