"""The load: callers of every kind, who never give up, each execution with a token of its own."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from skybridge_client import (
    AlreadyExistsError,
    AsyncClient,
    Execution,
    InvalidArgumentError,
    NotFoundError,
    SkybridgeError,
)
from skybridge_client.specs import FunctionFields
from tests.support.functions import QUEUED, deploy, deploy_python

T = TypeVar("T")

LINES = 5
PAUSE = 0.1
OUTSTANDING = 12
"""Detached executions that may be unfinished at once."""
RETRY_PAUSE = 0.2
SCHEDULE_SECONDS = 2
TOKEN = "chaos-token"
"""The label that says which token an execution was given."""

TALK = (
    f'read token; for i in $(seq {LINES}); do echo "$token $i"; sleep {PAUSE}; done; '
    'printf "$token end"'
)
STEADY = TALK
MOODY = f'[ "$SKYBRIDGE_ATTEMPT" = 1 ] && exit 9; {TALK}'
"""It fails at first, and is tried again whatever happens to it."""
TIMED = f"token=timed; {TALK.partition('; ')[2]}"
WARM = f"""
import http.server, os, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        token = self.rfile.read(int(self.headers["content-length"])).decode().strip()
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(1, {LINES} + 1):
            self.chunk(f"{{token}} {{number}}\\n".encode())
            time.sleep(float(os.environ["PAUSE"]))
        self.chunk(f"{{token}} end".encode())
        self.chunk(b"")

    def chunk(self, data):
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""
"""It says the same over HTTP, in an instance that is kept."""

PATIENT: FunctionFields = {"queue_timeout": 600}
RETRIED: FunctionFields = {
    "max_attempts": 10,
    "initial_backoff": 0.1,
    "max_backoff": 1,
    "retry_on": ("exit_code", "signal", "container_removed", "lost", "runtime_unavailable"),
}
KEPT: FunctionFields = {
    "contract": "http",
    "instance_concurrency": 4,
    "max_instances": 2,
    "shutdown_grace": 0,
}
SLOW: FunctionFields = {"env": {"PAUSE": str(PAUSE)}}
QUICK: FunctionFields = {"env": {"PAUSE": "0"}}


def expected(token: str) -> bytes:
    """Return what a function writes that was given a token."""
    lines = "".join(f"{token} {number}\n" for number in range(1, LINES + 1))
    return f"{lines}{token} end".encode()


@dataclass(slots=True)
class Functions:
    """What is executed."""

    called: tuple[str, ...]
    """By callers, all with the same result."""
    quick: str
    """One of them that ends so soon that it is stored in one write."""
    timed: str
    """By a schedule."""

    @classmethod
    async def deployed(cls, client: AsyncClient) -> Functions:
        """Create and deploy them, and a schedule."""
        quick = await deploy_python(client, WARM, **PATIENT | KEPT | QUICK)
        called = (
            quick,
            await deploy(client, STEADY, **PATIENT),
            await deploy(client, MOODY, **PATIENT | RETRIED),
            await deploy_python(client, WARM, **PATIENT | KEPT | SLOW),
            await deploy_python(client, WARM, **PATIENT | KEPT | SLOW | RETRIED),
        )
        timed = await deploy(client, TIMED, **PATIENT)
        await client.create_schedule(
            "chaos", function=timed, interval=SCHEDULE_SECONDS, overlap_policy="queue"
        )
        return cls(called, quick, timed)


@dataclass(slots=True)
class Ledger:
    """What callers were told."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Token of each execution whose name somebody was given."""
    ends: dict[str, Execution] = field(default_factory=dict)
    """The executions that ended, as their callers were told."""
    streamed: dict[str, bytes] = field(default_factory=dict)
    """Output of those that were followed live to a good end."""
    unfinished: set[str] = field(default_factory=set)
    """Detached executions that were not seen to end."""


class Load:
    """Callers, until told to stop."""

    def __init__(self, client: AsyncClient, functions: Functions, seed: int) -> None:
        self.ledger = Ledger()
        self._client = client
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        called = functions.called
        self._callers = 2 * [
            (self._starts, called),
            (self._executes, called),
            (self._streams, called),
            (self._executes, (functions.quick,)),
        ]

    async def run(self) -> None:
        """Call until stopped, and let all callers get their last answer."""
        async with asyncio.TaskGroup() as group:
            for call, functions in self._callers:
                group.create_task(self._repeat(call, functions))

    def stop(self) -> None:
        """Call no more."""
        self._stopping.set()

    async def _repeat(
        self, call: Callable[[str, str], Awaitable[None]], functions: Sequence[str]
    ) -> None:
        while not self._stopping.is_set():
            token = str(uuid.uuid4())
            await call(self._random.choice(functions), token)
            await asyncio.sleep(self._random.uniform(0, 0.2))

    async def _starts(self, function: str, token: str) -> None:
        """Start one that is bound to no call, and look after an earlier one."""
        started = await persist(
            lambda: self._client.start(
                function, _line(token), request_id=token, labels={TOKEN: token}
            )
        )
        self.ledger.accepted[started.name] = token
        self.ledger.unfinished.add(started.name)
        while len(self.ledger.unfinished) > OUTSTANDING and not self._stopping.is_set():
            await self._look_after(self._random.choice(sorted(self.ledger.unfinished)))

    async def _look_after(self, name: str) -> None:
        ended = await persist(lambda: self._client.wait(name, timeout=5))
        if ended.HasField("end_time"):
            self.ledger.unfinished.discard(name)
            self.ledger.ends[name] = ended

    async def _executes(self, function: str, token: str) -> None:
        """Wait for the answer; a call that is cut off is repeated."""
        ended = await persist(
            lambda: self._client.execute(
                function, _line(token), request_id=token, labels={TOKEN: token}
            )
        )
        self.ledger.accepted[ended.name] = token
        self.ledger.ends[ended.name] = ended

    async def _streams(self, function: str, token: str) -> None:
        """Follow it live; a stream that is cut off is resumed."""

        async def follow() -> bytes:
            output = b""
            async for event in self._client.stream(
                function,
                _line(token),
                request_id=token,
                labels={TOKEN: token},
                on_disconnect="continue",
            ):
                self.ledger.accepted[event.execution] = token
                if event.HasField("state_change") and event.state_change.state == QUEUED:
                    output = b""  # of an attempt that failed
                if event.HasField("output") and event.output.stream == 1:
                    output += event.output.data
                if event.HasField("result"):
                    ended = self.ledger.ends[event.execution] = event.result.execution
                    if not ended.HasField("failure"):
                        self.ledger.streamed[event.execution] = output
            return output

        await persist(follow)


def _line(token: str) -> bytes:
    return f"{token}\n".encode()


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it is answered; the request id makes it the same one each time."""
    while True:
        try:
            return await call()
        except (InvalidArgumentError, NotFoundError, AlreadyExistsError):
            raise
        except SkybridgeError:
            await asyncio.sleep(RETRY_PAUSE)
