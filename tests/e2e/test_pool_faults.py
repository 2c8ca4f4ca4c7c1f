"""A pool of instances whose engine goes away, cannot pause, or sees deployment after deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

import docker
import pytest

from skybridge_client import AsyncClient, UnavailableError
from skybridge_client.messages import Instance, InstanceState
from tests.contract.own_engine import OwnEngine
from tests.support.engine_proxy import NoPauses
from tests.support.functions import BUSYBOX, PYTHON, RUNNING, deploy_spec, reach, told
from tests.support.http_function import deploy_http
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
IDLE, PAUSED = InstanceState.INSTANCE_STATE_IDLE, InstanceState.INSTANCE_STATE_PAUSED
DEPLOYMENTS = 1000
POOLS = 30
"""What pools of threads and connections that had not met their limit after the first hundred
deployments may add. What leaks with each deployment is 900."""


@pytest.fixture
def server(serve: Serve) -> Iterator[Server]:
    """A server of a test's own; it stops in peace and leaves nothing."""
    made = serve(FAAS_MAX_REVISIONS_PER_FUNCTION="10")
    yield made
    made.stop()


@pytest.fixture
async def client(server: Server) -> AsyncGenerator[AsyncClient, None]:
    async with AsyncClient(server.address, timeout=PATIENCE) as made:
        yield made


async def instances(client: AsyncClient, function: str) -> list[Instance]:
    return [each async for each in client.list_instances(function=function)]


async def until_state(
    client: AsyncClient, function: str, state: InstanceState.ValueType
) -> Instance:
    """Wait until the only instance of a function is in a state, and return it."""
    found: list[Instance] = []

    async def there() -> bool:
        found[:] = await instances(client, function)
        return [each.state for each in found] == [state]

    await until(there, f"the instance to be {InstanceState.Name(state)}")
    return found[0]


# -- the engine ----------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that containers outlive: what is left of them must go when it is back."""
    OwnEngine.require()
    made = OwnEngine(tmp_path_factory.mktemp("engine"), live_restore=True)
    try:
        made.start()
        made.load(PYTHON)
        yield made
    finally:
        made.discard()


async def test_an_engine_that_is_stopped_and_started_with_a_full_pool(
    engine: OwnEngine, serve: Serve
) -> None:
    server = serve(**engine.environment, FAAS_MAX_INSTANCES="3")
    async with AsyncClient(server.address, timeout=PATIENCE) as client:
        names = await asyncio.gather(*(deploy_http(client) for _ in range(3)))
        before = [(await client.execute(name, b"who")).output for name in names]
        old = {each.id for each in server.containers()}
        assert len(old) == 3
        busy = await client.start(names[0], b"wait")
        await reach(client, busy.name, RUNNING)

        await asyncio.to_thread(engine.stop)

        async def refused() -> bool:
            try:
                await client.start(names[1], b"who")
            except UnavailableError as error:
                return error.reason == "RUNTIME_UNAVAILABLE"
            return False

        await until(refused, "executions to be refused")
        await asyncio.to_thread(engine.start)
        state, reason = told(await client.wait(busy.name, timeout=PATIENCE))
        assert state == "FAILED"
        assert reason in {"RUNTIME_UNAVAILABLE", "SIGNAL", "INSTANCE_DIED"}

        async def answered() -> bool:
            try:
                after = [await client.execute(name, b"who") for name in names]
            except UnavailableError:
                return False
            assert {told(each)[0] for each in after} == {"SUCCEEDED"}
            assert not {each.output for each in after} & {*before}
            return True

        await until(answered, "all functions to answer again")

        async def settled() -> bool:
            now = {each.id for each in await asyncio.to_thread(server.containers)}
            return not now & old and len(now) <= 3

        await until(settled, "the old instances to go")
    server.stop()


# -- pauses --------------------------------------------------------------------------------------


async def test_an_idle_instance_is_paused_and_wakes_for_what_comes(
    client: AsyncClient, server: Server, docker_client: docker.DockerClient
) -> None:
    name = await deploy_http(client, pause_after=0.25)
    first = await client.execute(name, b"who")
    for _ in range(2):
        instance = await until_state(client, name, PAUSED)

        def paused(container: str = instance.container) -> bool:
            return bool(docker_client.containers.get(container).status == "paused")

        await asyncio.to_thread(wait_until, paused, "the container to be paused")
        assert (await client.execute(name, b"who")).output == first.output
    await until_state(client, name, PAUSED)
    await client.delete_function(name)
    await asyncio.to_thread(server.settle)


@pytest.fixture
def no_pauses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoPauses]:
    with NoPauses(tmp_path_factory.mktemp("e")) as proxy:
        yield proxy


async def test_an_engine_that_cannot_pause_is_asked_once(no_pauses: NoPauses, serve: Serve) -> None:
    server = serve(**no_pauses.environment)
    async with AsyncClient(server.address, timeout=PATIENCE) as client:
        names = [await deploy_http(client, pause_after=0.25) for _ in range(2)]
        first = await client.execute(names[0], b"who")
        await asyncio.to_thread(server.wait_for, "instances are not paused")
        await until_state(client, names[0], IDLE)
        assert (await client.execute(names[0], b"who")).output == first.output
        assert told(await client.execute(names[1], b"who"))[0] == "SUCCEEDED"
    server.stop()
    assert no_pauses.refused == 1


# -- deployments ---------------------------------------------------------------------------------


async def test_a_thousand_deployments_leave_nothing_behind(
    client: AsyncClient, server: Server
) -> None:
    names = [await deploy_spec(client, image=BUSYBOX, command=["true"]) for _ in range(10)]
    await redeploy(client, names, 10)
    memory, level = server.rss_bytes(), server.level()

    await redeploy(client, names, DEPLOYMENTS // len(names) - 10)

    assert server.rss_bytes() - memory < 10 << 20
    assert server.level().descriptors - level.descriptors < POOLS
    assert not server.containers()

    # A server tidies at its start, and then every minute.
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)

    async def pruned() -> bool:
        for name in names:
            kept = [each.number async for each in client.list_revisions(name)]
            assert kept[0] == DEPLOYMENTS // len(names) + 1
            if len(kept) > 10:
                return False
        return True

    await until(pruned, "old revisions to be deleted")


async def test_deployments_with_instances_leave_those_of_the_last(
    client: AsyncClient, server: Server
) -> None:
    name = await deploy_http(client, min_instances=1, shutdown_grace=0)
    await redeploy(client, [name], 5)
    assert told(await client.execute(name, b"who"))[0] == "SUCCEEDED"

    async def alone() -> bool:
        containers = await asyncio.to_thread(server.containers)
        found = await instances(client, name)
        return len(containers) == len(found) == 1

    await until(alone, "the instances of old revisions to go")
    (kept,) = await instances(client, name)
    assert kept.revision.endswith("/revisions/6")


async def redeploy(client: AsyncClient, names: list[str], times: int) -> None:
    """Deploy each again and again, one deployment after the other."""

    async def run(name: str) -> None:
        for _ in range(times):
            async for _ in client.deploy(name):
                pass

    await asyncio.gather(*map(run, names))
