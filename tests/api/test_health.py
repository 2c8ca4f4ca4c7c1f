"""grpc.health.v1, over the wire."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from skybridge_server.api.descriptors import health_list_messages
from tests.api.tiny import SERVICES, Tiny
from tests.support.waiting import PATIENCE

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
EXECUTIONS = "skybridge.faas.v1.ExecutionService"
FUNCTIONS = "skybridge.faas.v1.FunctionService"


def health_call(tiny: Tiny, method: str) -> Any:
    kind = tiny.channel.unary_stream if method == "Watch" else tiny.channel.unary_unary
    return kind(
        f"/grpc.health.v1.Health/{method}",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )


async def check(tiny: Tiny, service: str) -> int:
    answer = await health_call(tiny, "Check")(HealthCheckRequest(service=service))
    return int(answer.status)


async def list_all(tiny: Tiny) -> dict[str, int]:
    request, response = health_list_messages()
    call: Any = tiny.channel.unary_unary(
        "/grpc.health.v1.Health/List",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return {name: status.status for name, status in (await call(request())).statuses.items()}


async def test_each_service_and_the_whole_have_a_status(tiny: Tiny) -> None:
    for service in ("", *SERVICES):
        assert await check(tiny, service) == (NOT_SERVING if service == EXECUTIONS else SERVING)


async def test_unknown_services_are_not_found(tiny: Tiny) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(tiny, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_executions_serve_while_they_can_run(tiny: Tiny) -> None:
    for serving in (True, False, True):
        tiny.server.health.set_execution_serving(serving)
        assert await check(tiny, EXECUTIONS) == (SERVING if serving else NOT_SERVING)
        assert await check(tiny, FUNCTIONS) == SERVING


async def test_list_tells_all_at_once(tiny: Tiny) -> None:
    tiny.server.health.set_execution_serving(True)
    assert await list_all(tiny) == dict.fromkeys(("", *SERVICES), SERVING)


async def test_watches_tell_every_change(tiny: Tiny) -> None:
    watch = health_call(tiny, "Watch")(HealthCheckRequest(service=EXECUTIONS))
    async with asyncio.timeout(PATIENCE):
        assert (await watch.read()).status == NOT_SERVING
        for serving in (True, False, True):
            tiny.server.health.set_execution_serving(serving)
            assert (await watch.read()).status == (SERVING if serving else NOT_SERVING)
    watch.cancel()


async def test_watches_are_silent_without_a_change(tiny: Tiny) -> None:
    watch = health_call(tiny, "Watch")(HealthCheckRequest(service=FUNCTIONS))
    async with asyncio.timeout(PATIENCE):
        assert (await watch.read()).status == SERVING
        for serving in (True, False):
            tiny.server.health.set_execution_serving(serving)
            await check(tiny, FUNCTIONS)
        tiny.server.health.stop()
        assert (await watch.read()).status == NOT_SERVING


async def test_unknown_services_can_be_watched(tiny: Tiny) -> None:
    watch = health_call(tiny, "Watch")(HealthCheckRequest(service="nobody"))
    async with asyncio.timeout(PATIENCE):
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        tiny.server.health.stop()
        assert await watch.read() is grpc.aio.EOF


async def test_open_watches_do_not_hold_up_the_stop(tiny: Tiny) -> None:
    watches = [
        health_call(tiny, "Watch")(HealthCheckRequest(service=service))
        for service in ("", EXECUTIONS)
    ]
    async with asyncio.timeout(PATIENCE):
        for watch in watches:
            await watch.read()
        await tiny.server.stop(timedelta(hours=1))
        assert (await watches[0].read()).status == NOT_SERVING
        for watch in watches:
            assert await watch.read() is grpc.aio.EOF


async def test_nothing_serves_again_after_the_stop(tiny: Tiny) -> None:
    tiny.server.health.stop()
    tiny.server.health.set_execution_serving(True)
    assert await list_all(tiny) == dict.fromkeys(("", *SERVICES), NOT_SERVING)
