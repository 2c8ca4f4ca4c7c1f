"""What callers should not have sent: told at once, by field, and it harms nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Awaitable
from typing import Any

import grpc
import pytest

from skybridge.faas.v1.execution_service_pb2 import ListExecutionsRequest
from skybridge.faas.v1.execution_service_pb2_grpc import ExecutionServiceStub
from skybridge.faas.v1.function_service_pb2 import ListFunctionsRequest
from skybridge.faas.v1.function_service_pb2_grpc import FunctionServiceStub
from skybridge_client import (
    AbortedError,
    AlreadyExistsError,
    AsyncClient,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    SkybridgeError,
)
from skybridge_client.errors import from_rpc_error
from tests.support.functions import BUSYBOX, PATIENT, RUNNING, deploy, new_id, reach, told
from tests.support.server import Server
from tests.support.stubs import channel

pytestmark = pytest.mark.docker

MIB = 1 << 20


async def drain(items: AsyncIterable[object]) -> list[object]:
    return [item async for item in items]


async def refused(call: Awaitable[object]) -> list[str]:
    """Return the fields that a refusal names."""
    with pytest.raises(InvalidArgumentError) as caught:
        await call
    assert all(each.description for each in caught.value.violations)
    return [each.field for each in caught.value.violations]


async def test_every_wrong_field_is_named_at_once(client: AsyncClient) -> None:
    fields = await refused(
        client.create_function(
            "UP",
            parent="namespaces/../x",
            request_id="not-a-uuid",
            labels={"UPPER": "x" * 256},
            description="x" * 1025,
            image="https://no/reference",
            command=[""],
            env={"1X": "", "SKYBRIDGE_MINE": "", "NUL": "\0"},
            working_dir="relative",
            memory_bytes=1,
            cpu_millis=1 << 40,
            pids=1,
            tmp_bytes=-1,
            output_bytes=1,
            queue_timeout=-1,
            execution_timeout=1e9,
            max_concurrency=-1,
            max_queue_depth=-1,
            user="nobody",
            oci_runtime="strange",
            runtime="nowhere",
        )
    )

    assert set(fields) >= {
        "parent",
        "function_id",
        "request_id",
        "function.description",
        "function.spec.image",
        "function.spec.command[0]",
        "function.spec.working_dir",
        "function.spec.resources.memory_bytes",
        "function.spec.resources.cpu_millis",
        "function.spec.resources.pids",
        "function.spec.resources.tmp_bytes",
        "function.spec.resources.output_bytes",
        "function.spec.timeouts.queue",
        "function.spec.timeouts.execution",
        "function.spec.scaling.max_concurrency",
        "function.spec.scaling.max_queue_depth",
        "function.spec.isolation.user",
        "function.spec.isolation.oci_runtime",
        "function.spec.runtime",
    }
    assert any(field.startswith("function.labels") for field in fields)
    assert sum(field.startswith("function.spec.env") for field in fields) == 3


@pytest.mark.parametrize(
    "name",
    ["../etc", "a/b", "UP", "-a", "a-", "a" * 64, "a\0b", "a\nb", "ä", "namespaces/../functions/a"],
)
async def test_no_name_leads_astray(client: AsyncClient, name: str) -> None:
    calls: dict[str, Awaitable[object]] = {
        "function_id": client.create_function(name, image=BUSYBOX),
        "name": client.get_function(name),
        "function": client.execute(name),
    }
    for field, call in calls.items():
        assert await refused(call) == [field]
    more: list[Awaitable[object]] = [
        drain(client.deploy(name)),
        client.delete_function(name),
        client.cancel(name),
    ]
    for call in more:
        assert await refused(call) == ["name"]


async def test_too_much_is_told_as_such(client: AsyncClient) -> None:
    name = await deploy(client, "cat")

    env = client.create_function(new_id(), image=BUSYBOX, env={"BIG": "x" * MIB})
    assert all(field.startswith("function.spec.env") for field in await refused(env))
    assert await refused(client.execute(name, b"x" * (3 * MIB + 1))) == ["input"]
    with pytest.raises(ResourceExhaustedError):  # more than a message may have
        await client.execute(name, b"x" * (9 * MIB))

    assert (await client.execute(name, b"fine")).output == b"fine"


async def test_input_that_does_not_fit_the_environment(client: AsyncClient) -> None:
    name = await deploy(client, "true", input_mode="env")

    for data in (b"x" * (96 * 1024 + 1), b"\0", b"\xff"):
        assert await refused(client.execute(name, data)) == ["input"]


async def test_masks_that_lead_nowhere(client: AsyncClient) -> None:
    name = await deploy(client, "true")

    for path in ("spec.nothing", "name", "etag", "spec.image.tag", ""):
        fields = await refused(client.update_function(name, update_mask=[path], description="x"))
        assert all(field.startswith("update_mask") for field in fields)


async def test_stale_etags_change_nothing(client: AsyncClient) -> None:
    name = await deploy(client, "true")
    stale = (await client.get_function(name)).etag
    await client.update_function(name, description="newer")
    before = await client.get_function(name)

    for call in (
        client.update_function(name, description="late", etag=stale),
        client.disable(name, etag=stale),
        client.enable(name, etag=stale),
        client.rollback(name, 1, etag=stale),
        client.delete_function(name, etag=stale),
        drain(client.deploy(name, etag=stale)),
    ):
        with pytest.raises(AbortedError):
            await call

    assert await client.get_function(name) == before


async def test_only_one_of_two_writers_wins(client: AsyncClient) -> None:
    name = await deploy(client, "true")
    etag = (await client.get_function(name)).etag

    answers = await asyncio.gather(
        *(client.update_function(name, description=f"by {n}", etag=etag) for n in range(8)),
        return_exceptions=True,
    )

    won = [each for each in answers if not isinstance(each, BaseException)]
    assert len(won) == 1
    assert await client.get_function(name) == won[0]
    assert sum(isinstance(each, AbortedError) for each in answers) == 7


async def test_request_ids_are_for_one_request(client: AsyncClient) -> None:
    name, request_id = new_id(), str(uuid.uuid4())
    first = await client.create_function(name, image=BUSYBOX, request_id=request_id)

    assert await client.create_function(name, image=BUSYBOX, request_id=request_id) == first
    with pytest.raises(AlreadyExistsError):
        await client.create_function(new_id(), image=BUSYBOX, request_id=request_id)
    with pytest.raises(AlreadyExistsError):
        await client.create_function(name, image=BUSYBOX)


@pytest.mark.parametrize("query", ["state = ", "nothing = 1", "name ! x", "labels.a", "x" * 1025])
async def test_filters_and_orders_that_mean_nothing(client: AsyncClient, query: str) -> None:
    assert await refused(drain(client.list_functions(filter=query))) == ["filter"]
    assert await refused(drain(client.list_executions(filter=query))) == ["filter"]
    assert await refused(drain(client.list_functions(order_by=query))) == ["order_by"]


async def test_tokens_of_another_query(server: Server, client: AsyncClient) -> None:
    label = new_id()
    for _ in range(2):
        await client.create_function(new_id(), image=BUSYBOX, labels={"page": label})
    mine = f'labels.page = "{label}"'
    async with channel(server.address) as wire:
        functions, executions = FunctionServiceStub(wire), ExecutionServiceStub(wire)
        page = await functions.ListFunctions(ListFunctionsRequest(filter=mine, page_size=1))
        token = page.next_page_token
        rest = await functions.ListFunctions(ListFunctionsRequest(filter=mine, page_token=token))
        assert len(page.functions) == len(rest.functions) == 1
        assert not rest.next_page_token
        wrong: list[Any] = [
            functions.ListFunctions(ListFunctionsRequest(page_token=token)),
            functions.ListFunctions(
                ListFunctionsRequest(filter=mine, page_token=token, order_by="name desc")
            ),
            functions.ListFunctions(ListFunctionsRequest(filter=mine, page_token=token[:-1])),
            functions.ListFunctions(ListFunctionsRequest(filter=mine, page_token="made up")),
            executions.ListExecutions(ListExecutionsRequest(filter=mine, page_token=token)),
        ]
        for call in wrong:
            with pytest.raises(grpc.RpcError) as caught:
                await call
            error = from_rpc_error(caught.value)
            assert isinstance(error, InvalidArgumentError)
            assert [each.field for each in error.violations] == ["page_token"]


async def test_what_does_not_exist_is_named(client: AsyncClient) -> None:
    execution = f"namespaces/default/executions/{uuid.uuid4()}"
    calls: list[tuple[Awaitable[object], str]] = [
        (client.get_function("nobody"), "namespaces/default/functions/nobody"),
        (client.execute("nobody"), "namespaces/default/functions/nobody"),
        (drain(client.logs("nobody")), "namespaces/default/functions/nobody"),
        (client.metrics("nobody"), "namespaces/default/functions/nobody"),
        (client.get_execution(execution), execution),
        (client.cancel(execution), execution),
        (client.wait(execution, timeout=1), execution),
        (drain(client.watch(execution)), execution),
    ]
    for call, resource in calls:
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.resource == resource


async def test_what_cannot_run_yet_says_the_way_out(client: AsyncClient) -> None:
    name = new_id()
    await client.create_function(name, image=BUSYBOX, command=["true"], pull_policy="never")
    with pytest.raises(FailedPreconditionError, match="DeployFunction") as caught:
        await client.execute(name)
    assert caught.value.reason == "FUNCTION_NOT_DEPLOYED"
    await drain(client.deploy(name))
    await client.disable(name)
    for call in (client.execute(name), client.start(name), drain(client.stream(name))):
        with pytest.raises(FailedPreconditionError, match="EnableFunction") as caught:
            await call
        assert caught.value.reason == "FUNCTION_DISABLED"
    await client.enable(name)
    assert told(await client.execute(name))[0] == "SUCCEEDED"


async def test_positions_past_the_end(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT)
    started = await client.start(name)
    await reach(client, started.name, RUNNING)

    with pytest.raises(OutOfRangeError) as caught:
        await drain(client.watch(started.name, after_sequence=99))
    assert caught.value.metadata["last_sequence"] == "3"
    with pytest.raises(SkybridgeError):
        await drain(client.watch(started.name, after_sequence=-1))
    await client.cancel(started.name)
