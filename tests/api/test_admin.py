"""Channelz on a listener of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from skybridge_server.api.admin import AdminServer
from skybridge_server.config import Address, SettingsError
from tests.api.tiny import LOOPBACK, Tiny


def channelz_stub(channel: Any) -> channelz_pb2_grpc.ChannelzStub:
    return channelz_pb2_grpc.ChannelzStub(channel)


async def test_channelz_shows_servers(tiny: Tiny) -> None:
    admin = AdminServer(tiny.server.wire)
    address = await admin.start(LOOPBACK)
    try:
        async with grpc.aio.insecure_channel(str(address)) as channel:
            stub = channelz_stub(channel)
            answer = await stub.GetServers(channelz_pb2.GetServersRequest())
        assert len(answer.server) >= 2
    finally:
        await admin.stop()


async def test_callers_do_not_reach_channelz(tiny: Tiny) -> None:
    stub = channelz_stub(tiny.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetServers(channelz_pb2.GetServersRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_address_in_use_names_its_setting(tiny: Tiny) -> None:
    with pytest.raises(SettingsError, match="FAAS_ADMIN_LISTEN: cannot listen on"):
        await AdminServer().start(tiny.address)


async def test_unix_sockets(tmp_path: Path) -> None:
    admin = AdminServer()
    address = Address(path=str(tmp_path / "a.sock"))
    assert await admin.start(address) == address
    await admin.stop()
