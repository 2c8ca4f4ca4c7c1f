"""Callers that cost next to nothing, as those were that the other systems were measured with.

A client of grpc in Python takes longer for a call than the server does, so what it sees of a single
caller is mostly itself. This one writes what it has prepared, and reads frames.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain, product, repeat
from typing import cast

from hpack import Decoder, Encoder

from skybridge.faas.v1.execution_pb2 import EXECUTION_STATE_SUCCEEDED
from skybridge.faas.v1.execution_service_pb2 import ExecuteFunctionRequest, ExecuteFunctionResponse
from skybridge_server.api.wire.messages import framed
from skybridge_server.http2 import frames
from skybridge_server.http2.connection import DEFAULT_WINDOW
from skybridge_server.http2.frames import Setting
from tests.benchmarks.harness import Result

CALLERS = (1, 8, 32, 64, 256)
CONNECTIONS = 8
ROUNDS = 4
SECONDS = 1.5
INPUT = b'{"name": "world"}'
"""Small JSON, as the others were sent."""

QUICKEST = {1: 1201, 8: 1401, 32: 1931, 64: 1335}
"""Requests a second of the quickest of Fn, tinyFaaS and OpenFaaS, by callers; see "Others" in
docs/performance.md. They do not run here: this is what they did on two cores of an AMD EPYC, and
says nothing on another machine. With 256 callers none of them was measured."""

METHOD = "/skybridge.faas.v1.ExecutionService/ExecuteFunction"


@dataclass
class Rounds:
    """What a number of callers measured, round by round."""

    rates: list[float]
    p50s: list[float]

    @property
    def rate(self) -> float:
        """Calls a second in the best round, which is what was told of the others."""
        return max(self.rates)

    @property
    def p50(self) -> float:
        return min(self.p50s)


class Connection(asyncio.Protocol):
    """An HTTP/2 connection for calls of one request."""

    def __init__(self, address: str, request: bytes) -> None:
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            (":authority", address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        encoder = Encoder()
        # The first head fills the table of the connection, all others refer to it.
        self._heads = chain([encoder.encode(fields)], repeat(encoder.encode(fields)))
        self._message = framed(request)
        self._stream = 1
        self._received = b""
        self._bodies: dict[int, bytes] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._decoder = Decoder()

    async def call(self) -> bytes:
        """Make a call; return the message of the answer. ConnectionError: it went wrong."""
        stream, self._stream = self._stream, self._stream + 2
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[stream] = answer
        self._transport.write(
            frames.headers(stream, next(self._heads), frames.MIN_FRAME_BYTES)
            + frames.head(frames.DATA, frames.END_STREAM, stream, len(self._message))
            + self._message
        )
        return await answer

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        most = frames.MAX_WINDOW
        self._transport.write(
            frames.PREFACE
            + frames.settings({Setting.INITIAL_WINDOW_SIZE: most})
            + frames.window_update(0, most - DEFAULT_WINDOW)
        )

    def data_received(self, data: bytes) -> None:
        data = self._received + data
        start = 0
        while len(data) - start >= frames.HEAD_BYTES:
            begin = start + frames.HEAD_BYTES
            end = begin + int.from_bytes(data[start : start + 3], "big")
            if len(data) < end:
                break
            stream = int.from_bytes(data[start + 5 : begin], "big")
            self._take(data[start + 3], data[start + 4], stream, data[begin:end])
            start = end
        self._received = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        for call in self._calls.values():
            if not call.done():
                call.set_exception(ConnectionError(f"the connection ended: {exc}"))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == frames.HEADERS:
            fields = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if flags & frames.END_STREAM:
                self._end(stream, ok=fields.get("grpc-status") == "0")
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._transport.write(frames.SETTINGS_ACK)
        elif kind == frames.PING and not flags & frames.ACK:
            self._transport.write(frames.ping(payload, ack=True))
        elif kind in (frames.RST_STREAM, frames.GOAWAY):
            self._transport.abort()

    def _end(self, stream: int, *, ok: bool) -> None:
        call, body = self._calls.pop(stream), self._bodies.pop(stream, b"")
        if ok:
            call.set_result(body[5:])
        else:
            call.set_exception(ConnectionError("the call ended with an error"))


async def run(address: str, functions: dict[str, str]) -> list[Result]:
    """Execute functions, by durability; print their rates, and hold them against the peers.

    None of these keeps a record, so with DEFERRED, which has one within 50 ms, ours promises more.
    """
    print(f"{'calls a second (p50 ms), thin callers:':<42}" + "".join(f"{n:>22}" for n in CALLERS))
    rounds = {name: {n: Rounds([], []) for n in CALLERS} for name in functions}
    async with AsyncExitStack() as stack:
        connections = {
            name: await stack.enter_async_context(_connections(address, function))
            for name, function in functions.items()
        }
        for callers, _, name in product(CALLERS, range(ROUNDS), functions):
            await _measure(connections[name], callers, rounds[name][callers])
    for name in functions:
        cells = (f"{each.rate:.0f} ({each.p50 * 1e3:.2f})" for each in rounds[name].values())
        print(f"{'warm, ' + name:<42}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    return [
        Result(
            f"{name}, {n} thin callers: Fn, tinyFaaS, OpenFaaS",
            rounds[name][n].rate / best,
            1,
            at_most=False,
            detail=f"{rounds[name][n].rate:.0f}/s against {best}/s",
        )
        for name, (n, best) in product(functions, QUICKEST.items())
    ]


@asynccontextmanager
async def _connections(address: str, function: str) -> AsyncIterator[list[Connection]]:
    request = ExecuteFunctionRequest(function=function, input=INPUT).SerializeToString()
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Connection(address, request), host, int(port))
        for _ in range(CONNECTIONS)
    ]
    try:
        yield [connection for _, connection in pairs]
    finally:
        for transport, _ in pairs:
            transport.close()


async def _measure(connections: list[Connection], callers: int, rounds: Rounds) -> None:
    seconds: list[float] = []
    began = time.perf_counter()
    end = began + SECONDS

    async def caller(connection: Connection) -> None:
        while (asked := time.perf_counter()) < end:
            answer = ExecuteFunctionResponse.FromString(await connection.call())
            assert answer.execution.state == EXECUTION_STATE_SUCCEEDED, answer
            assert answer.execution.output == INPUT, answer
            seconds.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller(connections[n % CONNECTIONS]) for n in range(callers)))
    rounds.rates.append(len(seconds) / (time.perf_counter() - began))
    rounds.p50s.append(statistics.median(seconds))
