"""grpc.channelz.v1: which servers there are, who is connected, and how many calls there were.

https://github.com/grpc/proposal/blob/master/A14-channelz.md. There are no channels: the server
calls nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any, cast

import grpc
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1.channelz_pb2_grpc import (
    ChannelzServicer,
    add_ChannelzServicer_to_server,
)

from skybridge_server.api.calls import Methods
from skybridge_server.api.wire.server import WireServer
from skybridge_server.config import Address
from skybridge_server.errors import NotFoundError
from skybridge_server.http2.connection import Connection

PAGE = 100
"""Of servers or sockets, if the caller does not say."""


class Channelz(ChannelzServicer):
    """Answers from what servers know of themselves."""

    def __init__(self, servers: Sequence[WireServer]) -> None:
        self._servers = {server.number: server for server in servers}

    async def GetServers(self, request: pb.GetServersRequest, context: Any) -> Any:
        numbers, end = _page(self._servers, request.start_server_id, request.max_results)
        return pb.GetServersResponse(
            server=[_server(self._servers[number]) for number in numbers], end=end
        )

    async def GetServer(self, request: pb.GetServerRequest, context: Any) -> Any:
        return pb.GetServerResponse(server=_server(self._find(request.server_id)))

    async def GetServerSockets(self, request: pb.GetServerSocketsRequest, context: Any) -> Any:
        connections = self._find(request.server_id).connections
        numbers, end = _page(connections.values(), request.start_socket_id, request.max_results)
        return pb.GetServerSocketsResponse(
            socket_ref=[pb.SocketRef(socket_id=number) for number in numbers], end=end
        )

    async def GetSocket(self, request: pb.GetSocketRequest, context: Any) -> Any:
        for server in self._servers.values():
            for connection, number in server.connections.items():
                if number == request.socket_id:
                    return pb.GetSocketResponse(socket=_socket(number, connection))
        raise NotFoundError("socket", str(request.socket_id))

    async def GetTopChannels(self, request: pb.GetTopChannelsRequest, context: Any) -> Any:
        return pb.GetTopChannelsResponse(end=True)

    async def GetChannel(self, request: pb.GetChannelRequest, context: Any) -> Any:
        raise NotFoundError("channel", str(request.channel_id))

    async def GetSubchannel(self, request: pb.GetSubchannelRequest, context: Any) -> Any:
        raise NotFoundError("subchannel", str(request.subchannel_id))

    def _find(self, number: int) -> WireServer:
        server = self._servers.get(number)
        if server is None:
            raise NotFoundError("server", str(number))
        return server


def add_to(methods: Methods, channelz: Channelz) -> None:
    """Let methods answer for it."""
    add_ChannelzServicer_to_server(channelz, cast("grpc.aio.Server", methods))


def _page(numbers: Iterable[int], first: int, most: int) -> tuple[list[int], bool]:
    """Return a page of numbers from `first` on, and whether it is the last."""
    rest = sorted(number for number in numbers if number >= first)
    most = most if most > 0 else PAGE
    return rest[:most], len(rest) <= most


def _server(server: WireServer) -> pb.Server:
    counts = server.counts
    return pb.Server(
        ref=pb.ServerRef(server_id=server.number),
        data=pb.ServerData(
            calls_started=counts.started,
            calls_succeeded=counts.succeeded,
            calls_failed=counts.failed,
        ),
        listen_socket=[pb.SocketRef(name=_name(each.getsockname())) for each in server.sockets],
    )


def _socket(number: int, connection: Connection) -> pb.Socket:
    local, remote = connection.ends
    return pb.Socket(
        ref=pb.SocketRef(socket_id=number),
        data=pb.SocketData(
            streams_started=connection.opened,
            streams_succeeded=connection.answered,
            streams_failed=connection.opened - connection.answered - connection.streams,
        ),
        local=_address(local),
        remote=_address(remote),
    )


def _name(address: Any) -> str:
    return str(Address(*address[:2]) if isinstance(address, tuple) else Address(path=address))


def _address(address: Any) -> pb.Address:
    if isinstance(address, tuple):
        packed = ip_address(address[0].partition("%")[0]).packed
        return pb.Address(tcpip_address=pb.Address.TcpIpAddress(ip_address=packed, port=address[1]))
    return pb.Address(uds_address=pb.Address.UdsAddress(filename=str(address or "")))
