"""Schedules on a real server and engine: they fire, once, however often the server is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from skybridge_client import AsyncClient, Client, Execution, Schedule
from tests.support.command import Ran, run
from tests.support.documents import ROOT, commands
from tests.support.functions import BUSYBOX, deploy, new_id, told
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
EXAMPLE = ROOT / "examples" / "schedules" / "README.md"
WORD_COUNT = "namespaces/default/functions/word-count"
KILLS = 3


async def executions_of(client: AsyncClient, schedule: str) -> list[Execution]:
    """Return all executions of a schedule as they ended, the oldest first."""
    label = f'labels.skybridge.schedule = "{schedule}"'
    found = client.list_executions(filter=label, order_by="create_time")
    return [await client.wait(execution.name, timeout=PATIENCE) async for execution in found]


def due_time(execution: Execution) -> datetime:
    return datetime.fromisoformat(execution.labels["skybridge.due-time"])


async def fires_again(client: AsyncClient, name: str, times: int) -> Schedule:
    before = (await client.get_schedule(name)).fired_count

    async def fired() -> bool:
        return (await client.get_schedule(name)).fired_count >= before + times

    await until(fired, f"{name} to fire {times} times")
    return await client.get_schedule(name)


async def test_a_schedule_fires_its_function(client: AsyncClient) -> None:
    function, name = await deploy(client, "cat"), new_id("s")
    await client.create_schedule(name, function=function, input=b"tick", interval=1)
    try:
        await fires_again(client, name, 2)
    finally:
        await client.pause_schedule(name)
    first, second, *_ = await executions_of(client, name)
    assert due_time(second) > due_time(first)
    for execution in (first, second):
        assert told(execution)[0] == "SUCCEEDED"
        assert (await client.get_execution(execution.name)).output == b"tick"
    await client.delete_function(function, force=True)


async def test_each_due_time_fires_once_however_often_the_server_is_killed(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        function, name = await deploy(client, "true"), new_id("s")
        await client.create_schedule(
            name, function=function, interval=1, overlap_policy="queue", catch_up_window=300
        )
        for _ in range(KILLS):
            await fires_again(client, name, 2)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await fires_again(client, name, 2)
        await client.pause_schedule(name)

        async def all_are_counted() -> bool:  # also the one that fired while it was paused
            fired = (await client.get_schedule(name)).fired_count
            return fired == len(await executions_of(client, name))

        await until(all_are_counted, "the schedule to count what it has fired")
        found = await client.get_schedule(name)
        executions = await executions_of(client, name)

    dues = sorted(map(due_time, executions))
    first = dues[0]
    assert dues == [first + timedelta(seconds=n) for n in range(len(dues))]
    assert found.fired_count == len(executions)
    assert (found.skipped_count, found.missed_count) == (0, 0)
    await asyncio.to_thread(server.stop)


@pytest.fixture
def word_count(server: Server) -> Iterator[None]:
    """The function of the example, without a build."""
    with Client(server.address) as client:
        client.create_function("word-count", image=BUSYBOX, command=["wc", "-w"])
        list(client.deploy("word-count"))
        yield
        if any(found.name == WORD_COUNT for found in client.list_functions()):
            client.delete_function("word-count", force=True)


@pytest.mark.usefixtures("word_count")
def test_the_example_does_what_it_says(server: Server) -> None:
    ran: dict[str, Ran] = {}
    for words in commands(EXAMPLE, "skybridge"):
        if words[1] != "up":
            done = run(server.address, *words, folder=ROOT)
            assert done.code == 0, (words, done.err)
            ran[" ".join(words[1:4])] = done
    assert "30 4 * * MON-FRI Europe/Berlin" in ran["schedules list"].out
    assert "every 10s" in ran["schedules list"].out
    assert "paused" in ran["schedules pause often"].out
    assert "cron" in ran["schedules update nightly"].out
    with Client(server.address) as client:
        assert list(client.list_schedules()) == []


@pytest.mark.usefixtures("word_count")
def test_a_function_that_a_schedule_executes_goes_by_force(server: Server) -> None:
    def skybridge(*words: str) -> Ran:
        return run(server.address, "skybridge", *words)

    created = skybridge(
        *("schedules", "create", "hourly", "--function", "word-count", "--interval", "1h"), "--json"
    )
    assert json.loads(created.out)["interval"] == "3600s", created.err
    refused = skybridge("function", "delete", "word-count")
    assert refused.code != 0
    assert "schedules" in refused.err
    assert "force" in refused.err
    assert skybridge("function", "delete", "word-count", "--force").code == 0
    assert "does not exist" in skybridge("schedules", "get", "hourly").err
