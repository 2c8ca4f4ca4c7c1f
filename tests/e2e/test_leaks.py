"""Whatever happens, round after round, a server holds no more than before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from skybridge_client import AsyncClient, FailedPreconditionError, SkybridgeError
from tests.support.functions import PATIENT, deploy, deploy_spec, told
from tests.support.server import Level, Server
from tests.support.waiting import until

pytestmark = pytest.mark.docker

CONCURRENCY = 6
ROUNDS = 3
POOLS = 15
"""What pools that had not met their limit in the first round may add. One round executes ten
times, so what leaks with each execution is twice as much."""
VERDICTS = {
    "echo": "SUCCEEDED",
    "broken": "FAILED",
    "nowhere": "FAILED",
    "missing": "FAILED",
    "slow": "TIMED_OUT",
}


async def expect(client: AsyncClient, name: str, verdict: str) -> None:
    assert told(await client.execute(name, b"in"))[0] == verdict


async def hurry(client: AsyncClient, name: str) -> None:
    with pytest.raises(SkybridgeError):
        await client.execute(name, timeout=0.5)


async def leave(client: AsyncClient, name: str) -> None:
    async with aclosing(client.stream(name, disconnect_grace=0.01)) as events:
        async for event in events:
            if event.HasField("output"):
                break


async def cancel(client: AsyncClient, name: str) -> None:
    started = await client.start(name)
    await client.cancel(started.name)
    assert told(await client.wait(started.name))[0] == "CANCELLED"


async def peek_at_logs(client: AsyncClient, name: str) -> None:
    async with aclosing(client.logs(name, follow=True)) as entries:
        await anext(entries)


async def deploy_in_vain(client: AsyncClient, name: str) -> None:
    with pytest.raises(FailedPreconditionError):
        assert [step async for step in client.deploy(name)]


async def play(client: AsyncClient, names: dict[str, str]) -> None:
    """Do one of everything that opens something, also what ends badly, all at once."""
    await expect(client, names["echo"], "SUCCEEDED")
    await asyncio.gather(
        *(expect(client, names[name], verdict) for name, verdict in VERDICTS.items()),
        *(action(client, names["patient"]) for action in (hurry, leave, cancel)),
        peek_at_logs(client, names["echo"]),
        deploy_in_vain(client, names["undeployable"]),
    )


async def settled(client: AsyncClient, server: Server) -> None:
    """Wait until all executions have ended and their containers are gone."""

    async def idle() -> bool:
        info = await client.system_info()
        return info.running_executions + info.queued_executions == 0

    await until(idle, "all executions to end")
    await asyncio.to_thread(server.settle)


async def test_rounds_of_everything_leave_nothing(serve: Callable[..., Server]) -> None:
    server = serve(FAAS_MAX_CONCURRENT_EXECUTIONS=str(CONCURRENCY))
    async with AsyncClient(server.address) as client:
        names = {
            "echo": await deploy(client, "cat"),
            "broken": await deploy(client, "exit 1"),
            "nowhere": await deploy(client, "true", working_dir="/bin/busybox"),
            "missing": await deploy_spec(client, command=["/no/such"]),
            "slow": await deploy(client, PATIENT, execution_timeout=0.2),
            "patient": await deploy(client, f"echo ready; {PATIENT}"),
            "undeployable": "undeployable",
        }
        await client.create_function("undeployable", image="no-such", pull_policy="never")
        levels: list[Level] = []
        for _ in range(1 + ROUNDS):
            await play(client, names)
            await settled(client, server)
            levels.append(server.level())
    first, last = levels[0], levels[-1]
    assert last.threads - first.threads < POOLS, levels
    assert last.descriptors - first.descriptors < POOLS, levels
    assert server.errors() == []
    await asyncio.to_thread(server.stop)
