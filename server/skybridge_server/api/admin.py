"""Channelz, on a listener of its own: it shows who calls, so only this machine may ask."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from skybridge_server.api import reflection
from skybridge_server.api.access import open_to_all
from skybridge_server.api.calls import Methods
from skybridge_server.api.channelz import Channelz, add_to
from skybridge_server.api.listen import bind, bound
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.wire.server import WireServer
from skybridge_server.config import Address

SERVICE = "grpc.channelz.v1.Channelz"


class AdminServer:
    """Shows servers, sockets and calls of this process, also to grpcurl."""

    def __init__(self, *servers: WireServer) -> None:
        methods = Methods(CallMetrics(CollectorRegistry()), open_to_all)
        self._wire = WireServer(methods.find)
        add_to(methods, Channelz([*servers, self._wire]))
        reflection.add(methods, [SERVICE])

    async def start(self, address: Address) -> Address:
        """Listen, and return where. SettingsError."""
        sockets = bind("admin_listen", address)
        await self._wire.listen(sockets, None)
        return bound(address, sockets)

    async def stop(self) -> None:
        """Stop at once."""
        await self._wire.stop(0.0)
