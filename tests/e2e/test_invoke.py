"""Many executions on one call, on an instance of a real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from skybridge_client import AsyncClient, ExecutionState, Invocation
from tests.support import command
from tests.support.functions import RUNNING, reach
from tests.support.http_function import deploy_http
from tests.support.server import Server
from tests.support.waiting import until

pytestmark = pytest.mark.docker

SUCCEEDED = ExecutionState.EXECUTION_STATE_SUCCEEDED


@pytest.fixture
async def function(client: AsyncClient) -> AsyncGenerator[str, None]:
    """A function on one instance that takes four executions at once."""
    name = await deploy_http(client, max_instances=1, instance_concurrency=4, shutdown_grace=0)
    yield name
    await client.delete_function(name, force=True)


async def invocations(name: str, count: int) -> AsyncIterator[Invocation]:
    for n in range(count):
        yield Invocation(name, b"echo %d" % n)


async def test_all_of_a_stream_are_executed_once(client: AsyncClient, function: str) -> None:
    answers = [
        answer async for answer in client.invoke_stream(invocations(function, 200), window=32)
    ]
    executions = [answer.result() for answer in answers]
    assert {each.state for each in executions} == {SUCCEEDED}
    assert len({each.name for each in executions}) == 200
    for answer in answers:
        assert answer.result().output == answer.invocation.input
    listed = client.list_executions(filter=f'function = "{function}"')
    assert len([each async for each in listed]) == 200


async def test_a_batch_is_answered_in_order(client: AsyncClient, function: str) -> None:
    asked = [each async for each in invocations(function, 50)]
    answers = await client.execute_batch([*asked, Invocation("nobody")])
    *good, bad = answers
    assert [each.result().output for each in good] == [each.input for each in asked]
    assert bad.error is not None
    assert bad.error.reason == "NOT_FOUND"
    kept = await client.get_execution(good[7].result().name)
    assert kept.output == b"echo 7"


async def test_a_caller_that_leaves_takes_all_with_it(client: AsyncClient, function: str) -> None:
    async def waiting() -> AsyncIterator[Invocation]:
        for _ in range(3):
            yield Invocation(function, b"wait")

    async def run() -> None:
        async for _ in client.invoke_stream(waiting()):
            raise AssertionError("nothing ends by itself")

    caller = asyncio.create_task(run())
    found: list[str] = []

    async def all_run() -> bool:
        listed = client.list_executions(filter=f'function = "{function}"')
        found[:] = [each.name async for each in listed]
        return len(found) == 3

    await until(all_run, "three executions to be under way")
    await asyncio.gather(*(reach(client, each, RUNNING) for each in found))
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    for each in found:
        ended = await client.wait(each)
        assert ended.state == ExecutionState.EXECUTION_STATE_CANCELLED


async def test_the_command_runs_a_line_each(server: Server, function: str) -> None:
    given = "".join(json.dumps({"n": n}) + "\n" for n in range(30))
    ran = await asyncio.to_thread(
        command.run, server.address, "skybridge", "batch", function, given=given
    )
    assert (ran.code, ran.err) == (0, "")
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert {each["line"]: each["output"] for each in told} == {n + 1: {"n": n} for n in range(30)}
