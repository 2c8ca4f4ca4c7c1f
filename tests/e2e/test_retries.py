"""Retries, dead letters and delays on a real server and engine."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Callable, Iterator

import pytest

from skybridge_client import AlreadyExistsError, AsyncClient, Client
from tests.support.command import Ran, run
from tests.support.documents import ROOT, commands
from tests.support.functions import (
    BUSYBOX,
    QUEUED,
    RUNNING,
    Reason,
    collect,
    deploy,
    reach,
    states,
    told,
)
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
EXAMPLE = ROOT / "examples" / "flaky"
SCRIPT = (EXAMPLE / "function.sh").read_text()


async def test_it_fails_twice_and_then_succeeds(client: AsyncClient) -> None:
    name = await deploy(client, SCRIPT, max_attempts=3, initial_backoff=0.1)
    started = await client.start(name, b"3")
    events = await collect(client.watch(started.name))
    ended = await client.wait(started.name, timeout=PATIENCE)
    assert (told(ended)[0], ended.attempt, ended.output) == (
        "SUCCEEDED",
        3,
        b"attempt 3 is done\n",
    )
    assert [(each.number, each.exit_code) for each in ended.attempts] == [(1, 75), (2, 75)]
    assert states(events) == ["QUEUED", "STARTING", "RUNNING"] * 3 + ["SUCCEEDED"]
    logs = [entry.output.data async for entry in client.logs(started.name, attempt=2)]
    assert logs == [b"attempt 2 finds its service down\n"]
    told_at_once = await client.execute(name, b"3")
    assert (told_at_once.exit_code, told_at_once.attempt) == (75, 1)


async def test_a_server_that_is_killed_between_attempts_goes_on(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy(client, SCRIPT, max_attempts=3, initial_backoff=1, backoff_jitter=0)
        started = await client.start(name, b"3")
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
        later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        delayed = await client.start(name, b"1", start_time=soon)
        request_id = str(uuid.uuid4())
        far = await client.start(name, b"1", start_time=later, request_id=request_id)

        async def failed() -> bool:
            return (await client.get_execution(started.name)).attempt > 1

        await until(failed, "the first attempt to fail")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert told(ended)[0] == "SUCCEEDED"
        assert ended.attempt == len(ended.attempts) + 1 >= 3
        on_time = await client.wait(delayed.name, timeout=PATIENCE)
        assert told(on_time)[0] == "SUCCEEDED"
        assert on_time.start_time.ToDatetime(dt.UTC) >= soon
        again = await client.start(name, b"1", start_time=later, request_id=request_id)
        assert again.name == far.name
        with pytest.raises(AlreadyExistsError):
            await client.start(name, b"other", request_id=request_id)
        waiting = await client.get_execution(far.name)
        assert waiting.state == QUEUED
        assert waiting.not_before.ToDatetime(dt.UTC) == later
        assert told(await client.cancel(far.name))[0] == "CANCELLED"
    await asyncio.to_thread(server.stop)


async def test_a_dead_letter_is_redriven_once_although_the_server_is_killed(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy(client, "cat; exit 3", dead_letters=True)
        started = await client.start(name, b"precious")
        await client.wait(started.name, timeout=PATIENCE)
        letter = await client.get_dead_letter(started.name)
        assert (letter.input, letter.execution.output) == (b"precious", b"precious")
        made = await client.redrive_dead_letter(started.name)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await client.redrive_dead_letter(started.name) == made
        again = await client.wait(made, timeout=PATIENCE)
        assert (told(again), again.output) == (("FAILED", "EXIT_CODE"), b"precious")
        left = [each.name async for each in client.list_dead_letters()]
        assert left == [made]
        assert await client.purge_dead_letters("*") == 1
    await asyncio.to_thread(server.stop)


async def test_what_is_lost_is_tried_again(serve: Serve) -> None:
    server = serve()
    script = 'test "$SKYBRIDGE_ATTEMPT" -gt 1 || sleep 1000; echo again'
    async with AsyncClient(server.address) as client:
        name = await deploy(client, script, max_attempts=2, initial_backoff=0.1)
        started = await client.start(name)
        await reach(client, started.name, RUNNING)
        await asyncio.to_thread(server.kill)
        for container in server.containers():
            await asyncio.to_thread(container.remove, force=True)
        await asyncio.to_thread(server.start)
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert (told(ended)[0], ended.attempt, ended.output) == ("SUCCEEDED", 2, b"again\n")
        (first,) = ended.attempts
        assert Reason.Name(first.failure.reason) == "FAILURE_REASON_LOST"
    await asyncio.to_thread(server.stop)


@pytest.fixture
def flaky(server: Server) -> Iterator[None]:
    """The function of the example, without a build."""
    with Client(server.address) as client:
        client.create_function(
            "flaky",
            image=BUSYBOX,
            command=["sh", "-c", SCRIPT],
            max_attempts=3,
            initial_backoff=0.2,
            max_backoff=0.5,
            retry_exit_codes=[75],
            dead_letters=True,
        )
        list(client.deploy("flaky"))
        yield
        client.delete_function("flaky", force=True)


@pytest.mark.usefixtures("flaky")
def test_the_example_does_what_it_says(server: Server) -> None:
    ran: dict[str, list[Ran]] = {}
    with Client(server.address) as client:
        for words in commands(EXAMPLE / "README.md", "skybridge"):
            if words[1] == "up":
                continue
            done = run(server.address, *words, folder=ROOT)
            assert done.code == 0, (words, done.err)
            ran.setdefault(" ".join(words[1:3]), []).append(done)
            if words[1] == "start" and "--at" not in words:
                client.wait(done.out.strip(), timeout=PATIENCE)
            if words[1:3] == ["dead-letters", "redrive"]:
                again = client.wait(done.out.strip(), timeout=PATIENCE)
                assert again.output == b"attempt 9 is done\n"
    waiting, redriven = ran["dead-letters list"]
    assert "exit_code" in waiting.out
    assert "flaky" in redriven.out
    assert ran["dead-letters purge"][0].out == "1\n"
