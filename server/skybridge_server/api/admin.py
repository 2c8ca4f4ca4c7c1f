"""Channelz, on a listener of its own: it shows who calls, so only this machine may ask."""

from __future__ import annotations

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2

from skybridge_server.api import reflection
from skybridge_server.api.listen import listen
from skybridge_server.config import Address

SERVICE = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name


class AdminServer:
    """Shows servers, sockets and calls of this process, also to grpcurl."""

    def __init__(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        channelz.add_channelz_servicer(self._server)
        reflection.add(self._server, [SERVICE])

    async def start(self, address: Address) -> Address:
        """Listen, and return where. SettingsError."""
        bound = listen(self._server, "admin_listen", address)
        await self._server.start()
        return bound

    async def stop(self) -> None:
        """Stop at once."""
        await self._server.stop(None)
