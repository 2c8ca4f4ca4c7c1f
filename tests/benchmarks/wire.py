"""The way to a warm instance and back: what a call costs here, against a bare echo of as much."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from skybridge_server.contracts.base import Conversation
from skybridge_server.contracts.http import HttpConversation
from skybridge_server.contracts.lambda_api import LambdaConversation
from skybridge_server.models.names import FunctionName
from tests.benchmarks.harness import Result, free_port
from tests.benchmarks.peers import SIZE
from tests.support.instances import a_call, connected

BODY = b"x" * SIZE
HELLO = FunctionName("default", "hello")
ROUNDS = 30
CALLS = 300

Work = Callable[[], Awaitable[object]]


async def run() -> list[Result]:
    """Measure the processor time of this process, in turn, so that a drift hits all."""
    async with _echo() as echo, _http() as http, _lambda() as lambda_:
        costs = await _costs([echo, http, lambda_])
    floor = costs[0]
    return [
        Result(f"warm {name} call of 1 KiB, CPU", cost / floor, bar, detail=_detail(cost, floor))
        for name, cost, bar in (("HTTP", costs[1], 4), ("Lambda", costs[2], 7))
    ]


def _detail(cost: float, floor: float) -> str:
    return f"{cost * 1e6:.1f} us against {floor * 1e6:.1f} us"


async def _costs(works: list[Work]) -> list[float]:
    """Return the seconds of processor time that each takes, from the better rounds."""
    samples: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, taken in zip(works, samples, strict=True):
            await work()
            began = time.process_time()
            for _ in range(CALLS):
                await work()
            taken.append((time.process_time() - began) / CALLS)
    return [statistics.quantiles(taken, n=4)[0] for taken in samples]


@contextmanager
def _peer(kind: str, port: int) -> Iterator[None]:
    program = str(Path(__file__).with_name("peers.py"))
    process = subprocess.Popen([sys.executable, program, kind, str(port)], stdout=subprocess.PIPE)
    try:
        if kind != "lambda" and process.stdout is not None:
            process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.communicate()


class _Echo(asyncio.Protocol):
    """The least that a question and its answer can cost on this loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if not self._left:
            self._answered.set_result(None)

    async def ask(self) -> None:
        self._left = SIZE
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(BODY)
        await self._answered


@asynccontextmanager
async def _echo() -> AsyncIterator[Work]:
    port = free_port()
    with _peer("echo", port):
        sock = await connected(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(_Echo, sock=sock)
        try:
            yield protocol.ask
        finally:
            transport.abort()


@asynccontextmanager
async def _http() -> AsyncIterator[Work]:
    port = free_port()
    with _peer("http", port):
        conversation = HttpConversation(lambda: connected(("127.0.0.1", port)), HELLO)
        try:
            yield _calling(conversation)
        finally:
            await conversation.close()


@asynccontextmanager
async def _lambda() -> AsyncIterator[Work]:
    conversation = LambdaConversation(HELLO, 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with _peer("lambda", server.getsockname()[1]):
            sock, _ = await asyncio.get_running_loop().sock_accept(server)
            conversation.accepted(sock)
            try:
                await conversation.ready()
                yield _calling(conversation)
            finally:
                await conversation.close()


def _calling(conversation: Conversation) -> Work:
    async def work() -> None:
        output: list[bytes] = []
        call = a_call(BODY, execution="01977d6c-0000-7000-8000-000000000000")
        answer = await conversation.call(call, output.append)
        assert answer.failure is None
        assert sum(map(len, output)) == SIZE

    return work
