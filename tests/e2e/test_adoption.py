"""A server that is killed, at every point of an execution: the next one goes on with it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import docker
import pytest
from docker.models.containers import Container

from skybridge_client import (
    AsyncClient,
    Execution,
    ExecutionEvent,
    Patience,
    UnavailableError,
    is_final,
)
from tests.support.functions import (
    BUSYBOX,
    GATED,
    PATIENT,
    RUNNING,
    collect,
    deploy,
    output,
    reach,
    states,
    told,
)
from tests.support.previous import previous_server
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

T = TypeVar("T")
Serve = Callable[..., Server]
Moment = Callable[[Server, AsyncClient, str], Awaitable[None]]

STUBBORN_CALLER = Patience(tries=1000, first_tries=1000, first_pause=0.05, longest_pause=0.2)

LINES = 20
COUNT = (
    f"for i in $(seq {LINES}); do echo line $i; echo err $i >&2; sleep 0.05; done; "
    "printf end; exit 7"
)
COUNTED = b"".join(b"line %d\n" % number for number in range(1, LINES + 1)) + b"end"
COUNTED_ERRORS = b"".join(b"err %d\n" % number for number in range(1, LINES + 1))

BIG = (
    "trap 'seq 30000; head -c 50000 /dev/zero; echo; printf last; exit 0' USR1; "
    "echo ready; sleep 1000 & wait"
)
BIG_OUTPUT = (
    b"ready\n"
    + b"".join(b"%d\n" % number for number in range(1, 30001))
    + bytes(50_000)
    + b"\nlast"
)
"""Lines without number, one that an engine keeps in pieces, and an end without a newline."""


async def find(server: Server, execution: str) -> Container | None:
    found = await asyncio.to_thread(server.containers, f"skybridge.execution={execution}")
    return found[0] if found else None


async def finish(server: Server, execution: str) -> Container:
    """Tell a gated function to go on, and return its container."""
    container = await find(server, execution)
    assert container is not None
    await asyncio.to_thread(container.kill, "SIGUSR1")
    return container


async def restart(server: Server) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def written(client: AsyncClient, execution: str, size: int) -> None:
    """Wait until so many bytes of output are stored."""

    async def there() -> bool:
        return (await client.get_execution(execution)).stdout_bytes >= size

    await until(there, f"{size} bytes of output")


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until the server is there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await call()
            except UnavailableError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def caller(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, patience=STUBBORN_CALLER) as client:
        yield client


# -- at every point ------------------------------------------------------------------------------


async def accepted(_server: Server, _client: AsyncClient, _execution: str) -> None:
    """It may not even have been looked at."""


async def created(server: Server, _client: AsyncClient, execution: str) -> None:
    async def there() -> bool:
        return await find(server, execution) is not None

    await until(there, "its container")


async def running(_server: Server, client: AsyncClient, execution: str) -> None:
    await reach(client, execution, RUNNING)


async def half_written(_server: Server, client: AsyncClient, execution: str) -> None:
    await written(client, execution, len(COUNTED) // 2)


@pytest.mark.parametrize("moment", [accepted, created, running, half_written])
async def test_killed_when(serve: Serve, moment: Moment) -> None:
    server = serve()
    async with caller(server) as client:
        started = await client.start(await deploy(client, COUNT))
        following = asyncio.create_task(collect(client.watch(started.name)))
        await moment(server, client, started.name)
        for _ in range(2):
            await restart(server)
        await check_counted(client, await following)
        server.settle()
    await asyncio.to_thread(server.stop)


async def check_counted(client: AsyncClient, events: list[ExecutionEvent]) -> None:
    ended = events[-1].result.execution
    assert (told(ended), ended.exit_code) == (("FAILED", "EXIT_CODE"), 7), ended.failure.message
    assert output(events) == COUNTED
    assert output(events, 2) == COUNTED_ERRORS
    assert states(events) == ["QUEUED", "STARTING", "RUNNING", "FAILED"]
    stored = await collect(client.watch(ended.name))
    assert stored == events
    assert [event.sequence for event in stored] == [*range(1, len(stored) + 1)]


async def test_what_ended_while_nobody_looked_is_collected(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        started = await client.start(await deploy(client, BIG))
        await written(client, started.name, len("ready\n"))
        await asyncio.to_thread(server.kill)
        container = await finish(server, started.name)
        await asyncio.to_thread(container.wait)
        await asyncio.to_thread(server.start)

        ended = await client.wait(started.name, timeout=PATIENCE)
        assert told(ended)[0] == "SUCCEEDED", ended.failure.message
        assert ended.output == BIG_OUTPUT
        assert output(await collect(client.watch(started.name))) == BIG_OUTPUT
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_callers_who_wait_get_their_answer_across_a_crash(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        name = await deploy(client, f"cat; {GATED}")
        request_id = str(uuid.uuid4())
        calling = asyncio.create_task(
            persist(lambda: client.execute(name, b"input\n", request_id=request_id))
        )

        found: list[Execution] = []

        async def accepted() -> bool:
            wanted = f'function = "{name}"'
            found[:] = [each async for each in client.list_executions(filter=wanted)]
            return bool(found)

        await until(accepted, "it to be accepted")
        execution = found[0]
        await written(client, execution.name, len("input\nready\n"))
        await restart(server)
        await finish(server, execution.name)
        ended = await calling
        assert told(ended)[0] == "SUCCEEDED"
        assert (ended.name, ended.output) == (execution.name, b"input\nready\ndone\n")
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_an_input_that_was_not_all_given_is_told(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        started = await client.start(await deploy(client, f"echo ready; {PATIENT}"), bytes(2**21))
        await written(client, started.name, len("ready\n"))
        await restart(server)
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert told(ended) == ("FAILED", "LOST")
        assert "all of the input" in ended.failure.message
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_limits_and_cancels_hold_for_what_was_taken_over(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        late = await client.start(await deploy(client, PATIENT, execution_timeout=5))
        unwanted = await client.start(await deploy(client, PATIENT))
        for each in (late, unwanted):
            await reach(client, each.name, RUNNING)
        await restart(server)
        assert not is_final(await client.cancel(unwanted.name))
        ended = await client.wait(unwanted.name, timeout=PATIENCE)
        assert (told(ended), ended.exit_code) == (("CANCELLED", "CANCELLED"), 143)
        ended = await client.wait(late.name, timeout=PATIENCE)
        assert (told(ended), ended.exit_code) == (("TIMED_OUT", "EXECUTION_TIMEOUT"), 143)
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_servers_on_one_engine_leave_each_others_alone(serve: Serve) -> None:
    first = serve()
    async with caller(first) as client:
        started = await client.start(await deploy(client, GATED))
        await written(client, started.name, len("ready\n"))
        first.kill()

        second = serve()
        async with caller(second) as other:
            mine = await other.start(await deploy(other, GATED))
            await written(other, mine.name, len("ready\n"))
            await restart(second)
            await finish(second, mine.name)
            ended = await other.wait(mine.name, timeout=PATIENCE)
            assert ended.output == b"ready\ndone\n"
            second.settle()
        await asyncio.to_thread(second.stop)

        await asyncio.to_thread(first.start)
        await finish(first, started.name)
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert ended.output == b"ready\ndone\n"
        first.settle()
    await asyncio.to_thread(first.stop)


async def test_a_container_that_nobody_knows_goes_at_the_start(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        started = await client.start(await deploy(client, f"echo ready; {PATIENT}"))
        await written(client, started.name, len("ready\n"))
    server.kill()
    container = server.containers()[0]
    labels = {**container.labels, "skybridge.execution": "namespaces/default/executions/unknown"}
    with contextlib.closing(docker.from_env()) as engine:
        orphan = engine.containers.run(BUSYBOX, ["sleep", "1000"], labels=labels, detach=True)
        server.start()
        async with caller(server) as client:

            async def gone() -> bool:
                ids = await asyncio.to_thread(server.containers)
                return orphan.id not in [each.id for each in ids]

            await until(gone, "the orphan to be removed")
            await client.cancel(started.name)
            assert told(await client.wait(started.name, timeout=PATIENCE))[0] == "CANCELLED"
            server.settle()
    await asyncio.to_thread(server.stop)


# -- stopping on purpose -------------------------------------------------------------------------


async def test_a_stop_that_hands_over_ends_nothing(serve: Serve) -> None:
    server = serve(FAAS_SHUTDOWN_GRACE="1s", FAAS_ON_SHUTDOWN="handover")
    async with caller(server) as client:
        started = await client.start(await deploy(client, GATED))
        await written(client, started.name, len("ready\n"))
        following = asyncio.create_task(collect(client.watch(started.name)))
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        container = (await asyncio.to_thread(server.containers))[0]
        assert container.status == "running"
        await asyncio.to_thread(server.start)
        await finish(server, started.name)
        events = await following
        assert output(events) == b"ready\ndone\n"
        assert states(events) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_a_server_drains_when_a_caller_says_so(serve: Serve) -> None:
    server = serve(FAAS_SHUTDOWN_GRACE="10m")
    async with caller(server) as client:
        started = await client.start(await deploy(client, GATED))
        await written(client, started.name, len("ready\n"))
        answer = await client.drain(grace=1, handover=True)
        assert (answer.running_executions, answer.queued_executions) == (1, 0)
        assert await asyncio.to_thread(server.wait) == 0
        await asyncio.to_thread(server.start)
        await finish(server, started.name)
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert (told(ended)[0], ended.output) == ("SUCCEEDED", b"ready\ndone\n")
        server.settle()
    await asyncio.to_thread(server.stop)


async def test_an_update_under_load_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    """Half of it waits, half runs, and callers go on calling; first from the server before this."""
    server = serve(
        ready=False,
        FAAS_SHUTDOWN_GRACE="100ms",
        FAAS_ON_SHUTDOWN="handover",
        FAAS_MAX_CONCURRENT_EXECUTIONS="4",
        **previous_server(tmp_path / "before"),
    )
    server.forked = False  # what is forked is of today
    await asyncio.to_thread(server.start)
    async with caller(server) as client:
        name = await deploy(client, "read line; echo $line; sleep 0.3; echo $line")
        results: dict[str, bytes] = {}

        async def call(number: int) -> None:
            text = f"{number}\n".encode()
            request_id = str(uuid.uuid4())
            started = await persist(lambda: client.start(name, text, request_id=request_id))
            ended = await persist(lambda: client.wait(started.name, timeout=PATIENCE))
            assert told(ended)[0] == "SUCCEEDED", ended.failure.message
            assert ended.output == text + text
            results[started.name] = ended.output

        calls = [asyncio.create_task(call(number)) for number in range(16)]
        for _ in range(2):
            await until_ended(results, len(results) + 4)
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
            server.set(PYTHONPATH="")
            await asyncio.to_thread(server.start)
        await asyncio.gather(*calls)
        assert len(results) == len(calls)
        server.settle()
    await asyncio.to_thread(server.stop)


async def until_ended(results: dict[str, bytes], count: int) -> None:
    async def ended() -> bool:
        return len(results) >= count

    await until(ended, f"{count} executions to end")
