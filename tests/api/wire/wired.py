"""A server of a few methods of bytes, wrapped as ours are."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import trustme
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from skybridge_server.api.access import open_to_all
from skybridge_server.api.calls import Methods
from skybridge_server.api.listen import bind, bound
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.wire.server import WireServer
from skybridge_server.api.wire.status import CallError
from skybridge_server.config import Address
from skybridge_server.http2.connection import ALPN, Connection
from tests.support.waiting import until

LOOPBACK = Address("127.0.0.1", 0)
SECRET = "nobody outside is to read this"


class Behaviours:
    """What the methods do."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cleaned = asyncio.Event()
        self.go_on = asyncio.Event()
        self.yielded = 0

    async def echo(self, request: bytes, _: Any) -> bytes:
        return request

    async def size(self, request: bytes, _: Any) -> bytes:
        return b"%d" % len(request)

    async def large(self, request: bytes, _: Any) -> bytes:
        return bytes(int(request))

    async def fail(self, *_: Any) -> bytes:
        raise RuntimeError(SECRET)

    async def wrong(self, *_: Any) -> Any:
        return "no bytes"

    async def metadata(self, _: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("first", "1"), ("first-bin", b"\xff\x00")))
        return repr(context.invocation_metadata()).encode()

    async def refuse(self, request: bytes, context: Any) -> bytes:
        raise CallError(grpc.StatusCode.ABORTED, request.decode(), (("last-bin", b"\0"),))

    async def wait(self, request: bytes, _: Any) -> bytes:
        """Answer once it may go on."""
        try:
            self.entered.set()
            await self.go_on.wait()
        finally:
            self.cleaned.set()
        return request

    async def insist(self, request: bytes, _: Any) -> bytes:
        """Do the same, whoever cancels it."""
        self.entered.set()
        waiting = asyncio.ensure_future(self.go_on.wait())
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                continue
        return request

    async def pieces(self, request: bytes, _: Any) -> AsyncGenerator[bytes, None]:
        """Yield as many messages, each of so many bytes: `3 1000`."""
        count, size = map(int, request.split())
        try:
            for _number in range(count):
                self.yielded += 1
                yield bytes(size)
        finally:
            self.cleaned.set()

    async def chat(self, requests: AsyncIterator[bytes], _: Any) -> AsyncGenerator[bytes, None]:
        try:
            async for request in requests:
                yield request
        finally:
            self.cleaned.set()

    async def deaf(self, requests: AsyncIterator[bytes], _: Any) -> AsyncGenerator[bytes, None]:
        """Take none of the requests before it may go on."""
        self.entered.set()
        await self.go_on.wait()
        async for request in requests:
            yield b"%d" % len(request)

    async def early(self, requests: AsyncIterator[bytes], _: Any) -> bytes:
        """Answer after the first of the requests."""
        return await anext(requests)


class Wired:
    """A server that runs."""

    def __init__(self, wire: WireServer, port: int, behaviours: Behaviours) -> None:
        self.wire = wire
        self.port = port
        self.behaviours = behaviours
        self.logged: list[Any] = []
        """What its calls and connections have logged."""
        self.broken: list[dict[str, Any]] = []
        """What the event loop caught."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connection(self) -> Connection:
        """The only one."""
        (connection,) = self.wire.connections
        return connection

    @property
    def running(self) -> int:
        counts = self.wire.counts
        return counts.started - counts.succeeded - counts.failed

    @property
    def errors(self) -> Counter[str]:
        """Events that were logged as errors or warnings."""
        bad = [e for e in self.logged if e["log_level"] not in ("debug", "info")]
        return Counter(entry["event"] for entry in bad)

    async def idle(self) -> None:
        """Wait until nothing of any call is left."""

        async def none() -> bool:
            return self.running == 0

        await until(none, "the end of all calls")

    async def alone(self) -> None:
        """Wait until nobody is connected."""

        async def none() -> bool:
            return not self.wire.connections

        await until(none, "the end of all connections")


def _methods(behaviours: Behaviours) -> Methods:
    methods = Methods(CallMetrics(CollectorRegistry()), open_to_all)
    one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    both, first = grpc.stream_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler
    kinds: dict[str, Any] = dict.fromkeys(
        ("echo", "size", "large", "fail", "wrong", "metadata", "refuse", "wait", "insist"), one
    )
    kinds |= {"pieces": many, "chat": both, "deaf": both, "early": first}
    handlers = {
        name: kind(getattr(behaviours, name), bytes, lambda answer: b"" + answer)
        for name, kind in kinds.items()
    }
    methods.add_registered_method_handlers("t.T", handlers)
    return methods


@asynccontextmanager
async def wired(tls: Any = None) -> AsyncGenerator[Wired, None]:
    """Run a server on a free port of loopback; in the end, nothing of any call may be left."""
    behaviours = Behaviours()
    wire = WireServer(_methods(behaviours).find)
    sockets = bind("listen", LOOPBACK)
    await wire.listen(sockets, tls)
    running = Wired(wire, bound(LOOPBACK, sockets).port or 0, behaviours)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: running.broken.append(context))
    with capture_logs() as running.logged:
        try:
            yield running
        finally:
            behaviours.go_on.set()
            await wire.stop(0.0)
            await running.alone()
    assert running.running == 0
    assert wire._room._held == 0


def contexts(protocols: list[str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return those of a server and of a client that speaks these protocols."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    server.set_alpn_protocols([ALPN])
    if protocols:
        client.set_alpn_protocols(protocols)
    return server, client
