"""What SupportsPorts and SupportsPause promise, over the fake and every way to a real engine."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

import pytest

from skybridge_server.errors import ContainerGoneError
from skybridge_server.models.functions import Isolation, Network, Resources
from skybridge_server.models.ports import PortAccess
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerSpec,
    Runtime,
    SupportsAdoption,
    SupportsPause,
    SupportsPorts,
)
from tests.contract.test_runtimes import read_until
from tests.fakes.runtime import FakeProcess, FakeRuntime, Program, sleep
from tests.support.pausing import pause
from tests.support.sandboxes import SandboxedRuntime
from tests.support.waiting import until

PYTHON = "skybridge-local/python:3.11"
PATIENCE = 60.0
PORT = 8080
BIG = 4 << 20


@dataclass(frozen=True)
class Case:
    """One program, told twice: in Python, and for the fake."""

    python: str
    fake: Program


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def _serve_echo(process: FakeProcess) -> int:
    process.network.serve(PORT, _echo)
    await process.write(b"listens")
    await asyncio.Event().wait()
    return 0


ECHO = Case(
    """
import socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128

with Server(("127.0.0.1", 8080), Echo) as server:
    print("listens", end="", flush=True)
    server.serve_forever()
""",
    _serve_echo,
)
SLEEP = Case("import time; print('sleeps', flush=True); time.sleep(1000)", sleep)


async def _dial_all(process: FakeProcess) -> int:
    connection = process.network.dial(PORT)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"hello")
    writer.write_eof()
    await process.write(await reader.read())
    writer.close()
    try:
        process.network.dial(PORT + 1)
    except ConnectionRefusedError:
        await process.write(b", refused")
    await asyncio.Event().wait()
    return 0


DIAL = Case(
    """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", 8080))
connection.sendall(b"hello")
connection.shutdown(socket.SHUT_WR)
print(connection.makefile().read(), end="")
try:
    socket.create_connection(("127.0.0.1", 8081))
except ConnectionRefusedError:
    print(", refused", end="", flush=True)
time.sleep(1000)
""",
    _dial_all,
)


class PortRuntime(Runtime, SupportsPorts, SupportsAdoption, SupportsPause, Protocol):
    """What is tested here."""


@dataclass
class Bench:
    """A runtime, and what is needed to run cases in it."""

    runtime: PortRuntime
    image_id: str
    network: Network = Network.NONE
    fake: FakeRuntime | None = None
    labels: dict[str, str] = field(default_factory=lambda: {"skybridge.test": uuid.uuid4().hex})
    attachments: list[Attachment] = field(default_factory=list)

    async def create(self, case: Case, *, reachable: bool = True) -> str:
        if self.fake:
            self.fake.containers.program = case.fake
        return await self.runtime.containers.create(
            ContainerSpec(
                name=f"skybridge-test-{uuid.uuid4().hex}",
                image_id=self.image_id,
                command=("python3", "-c"),
                args=(case.python,),
                env={},
                labels=self.labels,
                working_dir="",
                resources=Resources(),
                network=self.network,
                isolation=Isolation(),
                stop_grace=timedelta(seconds=1),
                reachable=reachable,
            )
        )

    async def start(self, container_id: str) -> Attachment:
        attachment = await self.runtime.containers.attach(container_id)
        self.attachments.append(attachment)
        await self.runtime.containers.start(container_id)
        return attachment

    async def restart(self) -> None:
        """Put the runtime of another process in the place of this one."""
        if isinstance(self.runtime, SandboxedRuntime):
            for attachment in self.attachments:
                await attachment.close()
            self.attachments.clear()
            await self.runtime.close()
            self.runtime = self.runtime.another()

    async def serve(self) -> str:
        """Start the echo and wait until it listens."""
        container_id = await self.create(ECHO)
        await read_until(await self.start(container_id), b"listens")
        return container_id


async def docker_bench(runtime: SandboxedRuntime, network: Network) -> AsyncIterator[Bench]:
    image = await runtime.images.get(PYTHON)
    assert image, "run scripts/images"
    bench = Bench(runtime, image.id, network)
    async with asyncio.timeout(PATIENCE):
        yield bench
        for attachment in bench.attachments:
            await attachment.close()
        mine = [bench.labels] if bench.runtime is runtime else [bench.labels, runtime.labels]
        for labels in mine:  # with what a runtime left for another
            for record in await bench.runtime.containers.list(labels):
                await bench.runtime.containers.remove(record.id)
    await bench.runtime.close()


WAYS = [
    pytest.param(("fake", Network.NONE), id="fake"),
    pytest.param(
        (PortAccess.NAMESPACE, Network.NONE), id="namespace-none", marks=pytest.mark.docker
    ),
    pytest.param(
        (PortAccess.NAMESPACE, Network.EGRESS), id="namespace-egress", marks=pytest.mark.docker
    ),
    pytest.param((PortAccess.RELAY, Network.NONE), id="relay-none", marks=pytest.mark.docker),
    pytest.param((PortAccess.RELAY, Network.EGRESS), id="relay-egress", marks=pytest.mark.docker),
]

EITHER_WAY = pytest.mark.parametrize("bench", [WAYS[0], WAYS[1], WAYS[4]], indirect=True)
"""Each way and each network once, for what does not hang on how they are combined."""


@pytest.fixture(params=WAYS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    way, network = request.param
    if way == "fake":
        fake = FakeRuntime()
        image = await fake.images.get("busybox")
        assert image
        yield Bench(fake, image.id, network, fake)
        await fake.close()
    else:
        async for made in docker_bench(SandboxedRuntime(maximum=1, port_access=way), network):
            yield made


async def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Write, half-close, and read to the end; both at once, then close."""
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


# -- connecting -----------------------------------------------------------------------------------


async def test_a_connection_lets_bytes_through_at_once_and_ends_by_halves(bench: Bench) -> None:
    container_id = await bench.serve()
    connection = await bench.runtime.connect(container_id, PORT)
    assert not connection.getblocking()
    if connection.family is socket.AF_INET:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, b"first")
    assert await loop.sock_recv(connection, 100) == b"first"
    assert await exchange(connection, b"second") == b"second"


async def test_many_connections_and_many_bytes_at_once(bench: Bench) -> None:
    container_id = await bench.serve()
    sent = [hashlib.shake_128(bytes([n])).digest(BIG if n == 0 else 100_000) for n in range(8)]

    async def visit(data: bytes) -> bytes:
        return await exchange(await bench.runtime.connect(container_id, PORT), data)

    assert await asyncio.gather(*map(visit, sent)) == sent


@EITHER_WAY
async def test_where_nothing_listens(bench: Bench) -> None:
    container_id = await bench.create(SLEEP)
    with pytest.raises(ConnectionRefusedError):
        await bench.runtime.connect(container_id, PORT)  # it has not even started
    await bench.start(container_id)
    with pytest.raises(ConnectionRefusedError):
        await bench.runtime.connect(container_id, PORT)


@EITHER_WAY
async def test_a_container_that_ends_ends_its_connections(bench: Bench) -> None:
    container_id = await bench.serve()
    reader, writer = await asyncio.open_connection(
        sock=await bench.runtime.connect(container_id, PORT)
    )
    writer.write(b"alive")
    assert await reader.readexactly(5) == b"alive"
    await bench.runtime.containers.signal(container_id, "SIGKILL")
    await bench.runtime.containers.wait(container_id)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await bench.runtime.connect(container_id, PORT)


@EITHER_WAY
async def test_only_reachable_containers_that_are_there(bench: Bench) -> None:
    removed = await bench.create(SLEEP)
    await bench.runtime.containers.remove(removed)
    plain = await bench.create(SLEEP, reachable=False)
    for container_id in (removed, plain, "0" * 64):
        with pytest.raises(ContainerGoneError):
            await bench.runtime.connect(container_id, PORT)
        with pytest.raises(ContainerGoneError):
            await bench.runtime.listen(container_id, PORT, socket.socket.close)


# -- listening ------------------------------------------------------------------------------------


async def test_what_is_listened_on_before_the_start_is_there_from_the_start(bench: Bench) -> None:
    container_id = await bench.create(DIAL)
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    await bench.runtime.listen(container_id, PORT, accepted.put_nowait)
    closed = await bench.runtime.listen(container_id, PORT + 1, accepted.put_nowait)
    closed.close()
    closed.close()  # which changes nothing

    attachment = await bench.start(container_id)

    connection = await accepted.get()
    assert not connection.getblocking()
    if connection.family is socket.AF_INET:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert await exchange(connection, b"welcome") == b"hello"
    await read_until(attachment, b"welcome, refused")


@EITHER_WAY
async def test_a_port_that_is_taken(bench: Bench) -> None:
    container_id = await bench.create(SLEEP)
    listener = await bench.runtime.listen(container_id, PORT, socket.socket.close)
    with pytest.raises(OSError, match=rf"\[Errno {errno.EADDRINUSE}\]"):
        await bench.runtime.listen(container_id, PORT, socket.socket.close)
    listener.close()

    async def free() -> bool:
        try:
            await bench.runtime.listen(container_id, PORT, socket.socket.close)
        except OSError:
            return False
        return True

    await until(free, "the port to become free")


# -- outliving a process --------------------------------------------------------------------------


async def test_a_container_that_was_left_is_taken_over_with_its_ports(bench: Bench) -> None:
    container_id = await bench.serve()
    for word in (b"first", b"second"):
        connection = await bench.runtime.connect(container_id, PORT)
        assert await exchange(connection, word) == word
        held = await bench.runtime.connect(container_id, PORT)
        listener = await bench.runtime.listen(container_id, PORT + 1, socket.socket.close)
        listener.close()
        await bench.runtime.leave(container_id)
        held.close()
        await bench.restart()
        with pytest.raises(ContainerGoneError):
            await bench.runtime.connect(container_id, PORT)
        await bench.runtime.adopt(container_id, bench.network)
    assert await exchange(await bench.runtime.connect(container_id, PORT), b"third") == b"third"


async def test_what_has_ended_or_was_never_there_is_not_taken_over(bench: Bench) -> None:
    container_id = await bench.serve()
    await bench.runtime.leave(container_id)
    await bench.restart()
    await bench.runtime.containers.remove(container_id)
    for gone in (container_id, "0" * 64):
        with pytest.raises(ContainerGoneError):
            await bench.runtime.adopt(gone, bench.network)


# -- pausing --------------------------------------------------------------------------------------


ONE_WAY = pytest.mark.parametrize("bench", WAYS[:2], indirect=True)
"""A pause knows nothing of ways and networks."""


@ONE_WAY
async def test_a_pause_keeps_connections(bench: Bench) -> None:
    container_id = await bench.serve()
    connection = await bench.runtime.connect(container_id, PORT)
    for _ in range(2):
        await pause(bench.runtime, container_id)
    for _ in range(2):
        await bench.runtime.unpause(container_id)
    assert await exchange(connection, b"still here") == b"still here"


@ONE_WAY
async def test_pausing_what_has_ended_or_is_gone(bench: Bench) -> None:
    container_id = await bench.serve()
    await bench.runtime.containers.signal(container_id, "SIGKILL")
    await bench.runtime.containers.wait(container_id)
    await bench.runtime.pause(container_id)
    await bench.runtime.unpause(container_id)
    await bench.runtime.containers.remove(container_id)
    with pytest.raises(ContainerGoneError):
        await bench.runtime.pause(container_id)
    with pytest.raises(ContainerGoneError):
        await bench.runtime.unpause(container_id)
