"""An engine that dies, stops, hangs and comes back; hands from outside on our containers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from skybridge_client import (
    AsyncClient,
    Execution,
    ExecutionEvent,
    NotFoundError,
    UnavailableError,
    is_final,
)
from skybridge_client.messages import GapReason, RuntimeState
from tests.contract.own_engine import OwnEngine
from tests.support.functions import (
    BUSYBOX,
    GATED,
    PATIENT,
    collect,
    deploy,
    deploy_spec,
    new_id,
    output,
    told,
    until_output,
)
from tests.support.server import Server
from tests.support.stubs import channel
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
EXECUTIONS = "skybridge.faas.v1.ExecutionService"
FUNCTIONS = "skybridge.faas.v1.FunctionService"

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@contextmanager
def own_engine(folder: Path, *, live_restore: bool) -> Iterator[OwnEngine]:
    """An engine of our own, so that the one of the machine lives on."""
    OwnEngine.require()
    made = OwnEngine(folder, live_restore=live_restore)
    try:
        made.start()
        made.load(BUSYBOX)
        yield made
    finally:
        made.discard()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that containers outlive."""
    with own_engine(tmp_path_factory.mktemp("engine"), live_restore=True) as made:
        yield made


@pytest.fixture
def plain_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine as it is by default: when it stops or starts, it ends what runs."""
    # In a folder with a short name: the path of its containerd's socket must fit in 104 bytes.
    with own_engine(tmp_path_factory.mktemp("engine"), live_restore=False) as made:
        yield made


class Health:
    """The health of the execution service, as a watcher sees it."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._call = stub.Watch(HealthCheckRequest(service=EXECUTIONS))

    async def becomes(self, status: int) -> None:
        """Wait for the next event, which must be this one; say how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            answer = await self._call.read()
        assert answer.status == status
        name = HealthCheckResponse.ServingStatus.Name(answer.status)
        print(f"{name} after {time.monotonic() - began:.2f} s")

    async def of(self, service: str) -> int:
        answer = await self._stub.Check(HealthCheckRequest(service=service), timeout=PATIENCE)
        status: int = answer.status
        return status


@asynccontextmanager
async def watched_health(server: Server) -> AsyncIterator[Health]:
    async with channel(server.address) as wire:
        yield Health(HealthStub(wire))


async def check_management(client: AsyncClient, health: Health) -> None:
    """Everything that needs no engine works; what needs one says so, and when to come back."""
    assert await health.of(FUNCTIONS) == await health.of("") == SERVING
    name = new_id()
    await client.create_function(name, image=BUSYBOX, command=["true"], pull_policy="never")
    await client.update_function(name, description="changed")
    assert name in [f.name.rpartition("/")[2] async for f in client.list_functions()]
    (runtime,) = await client.runtimes()
    assert runtime.state == RuntimeState.RUNTIME_STATE_UNAVAILABLE
    assert "does not answer" in runtime.state_message
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        assert [step async for step in client.deploy(name)]
    assert (caught.value.reason, caught.value.retry_delay) == ("RUNTIME_UNAVAILABLE", 1)
    await client.delete_function(name)


# -- the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_an_engine_that_goes_away_while_functions_run(
    engine: OwnEngine, serve: Serve, how: str
) -> None:
    """What runs on without it is followed again once it is back, and what waits waits for it."""
    server = serve(**engine.environment)
    async with AsyncClient(server.address) as client, watched_health(server) as health:
        await health.becomes(SERVING)
        name = await deploy(client, GATED, max_concurrency=1)
        running = await client.start(name)
        following = asyncio.create_task(collect(client.watch(running.name)))
        await until_output(client, running.name)
        waiting = await client.start(await deploy(client, "cat"), b"waited")
        assert told(await client.wait(waiting.name, timeout=PATIENCE))[0] == "SUCCEEDED"
        waiting = await client.start(name)

        await asyncio.to_thread(getattr(engine, how))

        await health.becomes(NOT_SERVING)
        with pytest.raises(UnavailableError, match="does not answer") as caught:
            await client.start(name)
        assert (caught.value.reason, caught.value.retry_delay) == ("RUNTIME_UNAVAILABLE", 1)
        await check_management(client, health)
        assert not is_final(await client.get_execution(running.name))

        await asyncio.to_thread(engine.start)

        await health.becomes(SERVING)
        await finish(server, running.name)
        events = await following
        assert output(events) == b"ready\ndone\n"
        assert not any(event.HasField("gap") for event in events)
        assert told(events[-1].result.execution)[0] == "SUCCEEDED"
        await until_output(client, waiting.name)
        await finish(server, waiting.name)
        assert (await client.wait(waiting.name, timeout=PATIENCE)).output == b"ready\ndone\n"
        server.settle()
    server.stop()


async def finish(server: Server, execution: str) -> None:
    """Tell a gated function to end."""
    (container,) = await asyncio.to_thread(server.containers, f"skybridge.execution={execution}")
    await asyncio.to_thread(container.kill, "SIGUSR1")


async def test_what_ends_while_its_engine_is_away_is_told(engine: OwnEngine, serve: Serve) -> None:
    """Its exit code is known then, but the end of its output went to nobody."""
    server = serve(**engine.environment)
    async with AsyncClient(server.address) as client, watched_health(server) as health:
        await health.becomes(SERVING)
        name = await deploy(client, "echo ready; sleep 0.5; echo done; exit 3")
        running = await client.start(name)
        await until_output(client, running.name)
        (container,) = server.containers(f"skybridge.execution={running.name}")
        process = Path(f"/proc/{container.attrs['State']['Pid']}")

        await asyncio.to_thread(engine.kill)

        await health.becomes(NOT_SERVING)
        await until_gone(process)
        await asyncio.to_thread(engine.start)
        ended = await client.wait(running.name, timeout=PATIENCE)
        events = await collect(client.watch(running.name))
        check_torn(events)
        assert ended.exit_code == 3
        server.settle()
    server.stop()


async def until_gone(process: Path) -> None:
    async def gone() -> bool:
        return not process.exists()

    await until(gone, f"{process} to end")


def check_torn(events: list[ExecutionEvent]) -> None:
    """A journal whose engine went away: what was seen, a gap of unknown length, the truth."""
    assert output([e for e in events if not e.HasField("gap")]).startswith(b"ready\n")
    gaps = [event.gap for event in events if event.HasField("gap")]
    assert [gap.stream for gap in gaps] == [1, 2]
    assert {gap.reason for gap in gaps} == {GapReason.GAP_REASON_RUNTIME_UNAVAILABLE}
    assert not any(gap.HasField("length") for gap in gaps)
    ended = events[-1].result.execution
    assert told(ended) == ("FAILED", "RUNTIME_UNAVAILABLE")
    assert "went away while the function ran" in ended.failure.message


async def test_an_engine_that_takes_its_containers_along(
    plain_engine: OwnEngine, serve: Serve
) -> None:
    server = serve(**plain_engine.environment)
    async with AsyncClient(server.address) as client, watched_health(server) as health:
        await health.becomes(SERVING)
        name = await deploy(client, f"echo ready; {PATIENT}")
        for how, truths in {
            # The function's end may still be seen, or not any more.
            "stop": [("FAILED", "SIGNAL"), ("FAILED", "RUNTIME_UNAVAILABLE")],
            "kill": [("FAILED", "RUNTIME_UNAVAILABLE")],
        }.items():
            running = await client.start(name)
            await until_output(client, running.name)

            await asyncio.to_thread(getattr(plain_engine, how))

            await health.becomes(NOT_SERVING)
            await asyncio.to_thread(plain_engine.start)
            await health.becomes(SERVING)
            ended = await client.wait(running.name, timeout=PATIENCE)
            assert told(ended) in truths
            assert ended.exit_code in {0, 137, 143}
            await asyncio.to_thread(server.settle)
    server.stop()


async def test_an_engine_that_hangs_for_a_while_loses_nothing(
    engine: OwnEngine, serve: Serve
) -> None:
    server = serve(**engine.environment)
    async with AsyncClient(server.address) as client, watched_health(server) as health:
        await health.becomes(SERVING)
        name = await deploy(client, GATED)
        running = await client.start(name)
        await until_output(client, running.name)
        container = server.containers(f"skybridge.execution={running.name}")[0]
        engine.freeze()
        try:
            await health.becomes(NOT_SERVING)
            await check_management(client, health)
        finally:
            engine.thaw()
        await health.becomes(SERVING)

        await asyncio.to_thread(container.kill, "SIGUSR1")

        ended = await client.wait(running.name, timeout=PATIENCE)
        assert (told(ended)[0], ended.output) == ("SUCCEEDED", b"ready\ndone\n")
        server.settle()
    server.stop()


async def test_a_server_waits_for_its_engine(engine: OwnEngine, serve: Serve) -> None:
    engine.stop()
    server = serve(**engine.environment)
    async with AsyncClient(server.address) as client, watched_health(server) as health:
        await health.becomes(NOT_SERVING)
        await check_management(client, health)
        engine.start()
        await health.becomes(SERVING)
        name = await deploy(client, "echo at last")
        assert (await client.execute(name)).output == b"at last\n"
        server.settle()
    server.stop()


# -- hands from outside --------------------------------------------------------------------------


async def start_gated(server: Server, client: AsyncClient, **fields: Any) -> tuple[str, Any]:
    started = await client.start(await deploy(client, GATED, **fields))
    await until_output(client, started.name)
    return started.name, server.containers(f"skybridge.execution={started.name}")[0]


async def test_a_container_removed_from_outside(server: Server, client: AsyncClient) -> None:
    name, container = await start_gated(server, client)

    await asyncio.to_thread(container.remove, force=True)

    ended = await client.wait(name, timeout=PATIENCE)
    assert told(ended) == ("FAILED", "CONTAINER_REMOVED")
    assert not ended.HasField("exit_code")


async def test_a_container_stopped_from_outside(server: Server, client: AsyncClient) -> None:
    started = await client.start(await deploy(client, f"echo ready; {PATIENT}"))
    await until_output(client, started.name)
    container = server.containers(f"skybridge.execution={started.name}")[0]

    await asyncio.to_thread(container.stop)

    ended = await client.wait(started.name, timeout=PATIENCE)
    assert (told(ended), ended.exit_code) == (("FAILED", "SIGNAL"), 143)


async def test_a_container_paused_from_outside_goes_on_when_it_is_woken(
    server: Server, client: AsyncClient
) -> None:
    name, container = await start_gated(server, client)

    await asyncio.to_thread(container.pause)
    assert not is_final(await client.wait(name, timeout=0.3))
    await asyncio.to_thread(container.unpause)
    await asyncio.to_thread(container.kill, "SIGUSR1")

    assert told(await client.wait(name, timeout=PATIENCE))[0] == "SUCCEEDED"


async def test_a_container_paused_from_outside_can_be_cancelled(
    server: Server, client: AsyncClient
) -> None:
    name, container = await start_gated(server, client, shutdown_grace=0.3)
    await asyncio.to_thread(container.pause)

    await client.cancel(name)

    assert told(await client.wait(name, timeout=PATIENCE)) == ("CANCELLED", "CANCELLED")


async def test_a_container_paused_from_outside_does_not_escape_its_timeout(
    server: Server, client: AsyncClient
) -> None:
    name, container = await start_gated(server, client, execution_timeout=2, shutdown_grace=0.3)

    await asyncio.to_thread(container.pause)

    assert told(await client.wait(name, timeout=PATIENCE)) == ("TIMED_OUT", "EXECUTION_TIMEOUT")


async def test_a_container_removed_while_it_waits_for_its_start_is_told(
    server: Server, client: AsyncClient
) -> None:
    """Whoever removes right after the creation meets the start; either way it is the truth."""
    name = await deploy_spec(client, command=["sleep", "1000"])

    async def remove_at_once() -> Execution:
        started = await client.start(name)
        label = f"skybridge.execution={started.name}"
        found: list[Any] = []

        async def there() -> bool:
            found[:] = await asyncio.to_thread(server.containers, label)
            return bool(found)

        await until(there, "the container")
        await asyncio.to_thread(found[0].remove, force=True)
        return await client.wait(started.name, timeout=PATIENCE)

    for ended in await asyncio.gather(*(remove_at_once() for _ in range(3))):
        assert told(ended) == ("FAILED", "CONTAINER_REMOVED"), ended.failure.message


async def test_what_is_deleted_is_gone(client: AsyncClient) -> None:
    ended = await client.execute(await deploy(client, "echo out"))

    await client.delete_execution(ended.name)

    with pytest.raises(NotFoundError):
        await client.get_execution(ended.name)
    with pytest.raises(NotFoundError):
        await collect(client.watch(ended.name))
