"""Ports, sizes, keepalive and the order of stopping."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server.api.access import open_to_all
from skybridge_server.api.server import GrpcServer
from skybridge_server.api.wire.messages import MAX_MESSAGE_BYTES
from skybridge_server.config import Address, Settings, SettingsError
from tests.api.tiny import Script, Tiny, servicers, tiny_server
from tests.support.waiting import PATIENCE


async def why_not(address: Address) -> str:
    """Return why a server cannot listen there."""
    server = GrpcServer(
        Settings(listen=address), servicers(Script()), CollectorRegistry(), open_to_all
    )
    with pytest.raises(SettingsError) as caught:
        await server.start()
    await server.stop(timedelta(0))
    return str(caught.value)


async def test_port_0_is_told(tiny: Tiny) -> None:
    assert tiny.address.host == "127.0.0.1"
    assert tiny.address.port > 0


async def test_a_port_in_use_is_one_clear_line(
    tiny: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = await why_not(tiny.address)
    assert reason == f"FAAS_LISTEN: cannot listen on {tiny.address}: Address already in use"
    assert capfd.readouterr().err == ""


async def test_a_port_used_by_another_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        assert "Address already in use" in await why_not(address)


@pytest.mark.parametrize(
    "address", [Address("no-such-host.invalid", 1), Address("192.0.2.1", 0), Address(path="/no/x")]
)
async def test_impossible_addresses(address: Address) -> None:
    server = GrpcServer(
        Settings(listen=address, insecure=True),
        servicers(Script()),
        CollectorRegistry(),
        open_to_all,
    )
    with pytest.raises(SettingsError, match="FAAS_LISTEN: cannot listen on"):
        await server.start()
    await server.stop(timedelta(0))


async def test_a_unix_socket_serves_and_is_not_taken_away(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "s.sock"))
    async with tiny_server(Settings(listen=address)) as tiny:
        assert (await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())).version == "tiny"
        assert "another server listens there" in await why_not(address)
        assert (await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())).version == "tiny"


async def test_a_socket_left_by_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    async with tiny_server(Settings(listen=Address(path=path))) as tiny:
        assert (await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())).version == "tiny"


async def test_requests_may_have_8_mib(tiny: Tiny) -> None:
    async def send(size: int) -> grpc.StatusCode:
        request = pb.PullImageRequest(image="x" * size)
        call = tiny.system.PullImage(request)
        async for _ in call:
            pass
        return await call.code()

    assert await send(MAX_MESSAGE_BYTES - 100) is grpc.StatusCode.OK
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(MAX_MESSAGE_BYTES)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


class Gate:
    """A handler that answers once it is let through."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def info(self) -> pb.GetSystemInfoResponse:
        self.entered.set()
        await self.open.wait()
        return pb.GetSystemInfoResponse(version="late")


async def test_stop_lets_running_calls_end(tiny: Tiny) -> None:
    gate = Gate()
    tiny.script.info = gate.info
    call = tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    async with asyncio.timeout(PATIENCE):
        await gate.entered.wait()
        stop = asyncio.create_task(tiny.server.stop(timedelta(hours=1)))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await call).version == "late"
        await stop


async def test_a_second_stop_hurries_the_first(tiny: Tiny) -> None:
    gate = Gate()
    tiny.script.info = gate.info
    call = tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    async with asyncio.timeout(PATIENCE):
        await gate.entered.wait()
        stop = asyncio.create_task(tiny.server.stop(timedelta(hours=1)))
        await asyncio.sleep(0)
        await tiny.server.stop(timedelta(0))
        await stop
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_stop_ends_streams_after_the_grace(tiny: Tiny) -> None:
    ended = asyncio.Event()

    async def attach(requests: Any) -> Any:
        try:
            async for _ in requests:
                yield executions_pb.AttachExecutionResponse()
        finally:
            ended.set()

    tiny.script.attach = attach
    call = tiny.executions.AttachExecution()
    await call.write(executions_pb.AttachExecutionRequest())
    async with asyncio.timeout(PATIENCE):
        await call.read()
        await tiny.server.stop(timedelta(milliseconds=100))
        await ended.wait()
