"""Networks that a server keeps for executions which have none."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from skybridge_client import AsyncClient, Execution
from skybridge_server.services import labels
from skybridge_server.services.engines import Engines
from skybridge_server.services.sweeper import Sweeper
from tests.contract.own_engine import OwnEngine
from tests.support.functions import BUSYBOX, deploy, deploy_python, new_id, until_output
from tests.support.sandboxes import SandboxedRuntime
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]

ALONE = """
import socket, time
loopback = socket.create_server(("127.0.0.1", 4711))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0skybridge-test")
time.sleep(0.2)
print(socket.gethostname())
"""
"""A program that fails if another one of its kind is in its network."""
KEPT = b"function\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine of our own, which may hang."""
    OwnEngine.require()
    made = OwnEngine(tmp_path_factory.mktemp("engine"))
    try:
        made.start()
        made.load(BUSYBOX)
        yield made
    finally:
        made.discard()


async def until_kept(client: AsyncClient) -> None:
    """Execute until an execution gets a network that is kept."""
    name = await deploy(client, "hostname")

    async def kept() -> bool:
        return (await client.execute(name)).output == KEPT

    await until(kept, "an execution in a sandbox")


async def start_in_sandbox(
    server: Server, client: AsyncClient
) -> tuple[Execution, Container, Container]:
    """Start what runs until it finds /tmp/go; return it, its container and its sandbox."""
    script = "echo ready; until [ -e /tmp/go ]; do sleep 0.1; done; hostname"
    name = await deploy(client, script, shutdown_grace=0)
    while True:  # the first one finds none yet
        running = await client.start(name)
        await until_output(client, running.name)
        (container,) = server.containers(f"skybridge.execution={running.name}")
        for sandbox in server.sandboxes():
            if container.attrs["HostConfig"]["NetworkMode"] == f"container:{sandbox.id}":
                return running, container, sandbox
        await client.cancel(running.name)
        await client.wait(running.name)


@contextmanager
def leftover(server_id: str) -> Iterator[Callable[[], bool]]:
    """Run what looks like the sandbox of an earlier process, and does not end by itself.

    Yields what tells whether it is gone.
    """
    name = new_id("skybridge-test")
    with closing(docker.from_env()) as client:

        def find() -> list[Container]:
            return client.containers.list(all=True, ignore_removed=True, filters={"name": name})

        client.containers.run(
            BUSYBOX, ["sleep", "1000"], name=name, labels=labels.of_sandbox(server_id), detach=True
        )
        try:
            yield lambda: not find()
        finally:
            for found in find():
                found.remove(force=True)


async def test_executions_at_once_are_each_alone_in_their_network(serve: Serve) -> None:
    server = serve(FAAS_NETWORK_SANDBOXES="3")
    async with AsyncClient(server.address) as client:
        await until_kept(client)
        name = await deploy_python(client, ALONE)
        hosts = []

        async def execute() -> None:
            for _ in range(4):
                ended = await client.execute(name)
                assert ended.exit_code == 0, ended.log_tail
                hosts.append(ended.output)

        await asyncio.gather(*(execute() for _ in range(4)))

        assert hosts.count(KEPT) > 1
        assert 1 <= len(server.sandboxes()) <= 3
        server.settle()
    server.stop()


async def test_none_are_kept_where_the_operator_wants_none(serve: Serve) -> None:
    server = serve(FAAS_NETWORK_SANDBOXES="0")
    async with AsyncClient(server.address) as client:
        name = await deploy(client, "hostname")
        for _ in range(3):
            assert (await client.execute(name)).output != KEPT
        assert server.sandboxes() == []
        server.settle()
    server.stop()


async def test_an_execution_outlives_its_sandbox_and_the_next_gets_another(serve: Serve) -> None:
    server = serve(FAAS_NETWORK_SANDBOXES="1")
    async with AsyncClient(server.address) as client:
        running, container, sandbox = await start_in_sandbox(server, client)

        await asyncio.to_thread(sandbox.remove, force=True)
        await asyncio.to_thread(container.exec_run, ["touch", "/tmp/go"])

        ended = await client.wait(running.name, timeout=PATIENCE)
        assert (ended.exit_code, ended.output) == (0, b"ready\n" + KEPT)
        await until_kept(client)
        (other,) = server.sandboxes()
        assert other.id != sandbox.id
        server.settle()
    server.stop()


async def test_a_server_that_is_killed_leaves_none(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        await until_kept(client)
        assert server.sandboxes()
    server.kill()
    wait_until(lambda: not server.sandboxes(), "sandboxes to end with their server")


async def test_those_of_an_earlier_process_are_removed_at_the_next_start(serve: Serve) -> None:
    server = serve()
    server.stop()
    with leftover(server.id) as gone:
        server.start()
        wait_until(gone, "the leftover to be swept")
        server.stop()


async def test_a_stop_is_not_held_up_by_an_engine_that_hangs(
    engine: OwnEngine, serve: Serve
) -> None:
    server = serve(**engine.environment)
    async with AsyncClient(server.address) as client:
        await until_kept(client)
        server.settle()
    engine.freeze()
    try:
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0  # half of what the engine may take for a call
    finally:
        engine.thaw()
    wait_until(lambda: not server.sandboxes(), "sandboxes to end with their server")


class NothingLeft:
    """Instances of an earlier process, of which there are none."""

    async def run(self, engine: str) -> None: ...


async def test_a_sweep_spares_those_in_use() -> None:
    runtime = SandboxedRuntime(maximum=2)
    server_id = runtime.labels[labels.SERVER]
    engines = Engines({"docker": runtime}, "docker")
    await engines.open()
    try:
        await runtime.warm_up()
        nothing: Any = SimpleNamespace(owns=lambda _: False)
        sweeper = Sweeper(nothing, nothing, nothing, NothingLeft(), engines, server_id)
        assert await sweeper.sweep() == 0
        with leftover(server_id) as gone:
            assert await sweeper.sweep() == 1
            assert gone()
        assert [sandbox.ended for sandbox in runtime.kept._idle] == [False, False]
    finally:
        await engines.close()
