"""The load: callers of every kind, who never give up, each execution with a token of its own."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from skybridge_client import (
    AlreadyExistsError,
    AsyncClient,
    InvalidArgumentError,
    NotFoundError,
    SkybridgeError,
)
from tests.support.functions import QUEUED, deploy

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
CAUSES = ("exit_code", "signal", "container_removed", "lost", "runtime_unavailable")
TIMED = f"token=timed; {TALK.partition('; ')[2]}"


def expected(token: str) -> bytes:
    """Return what a function writes that was given a token."""
    lines = "".join(f"{token} {number}\n" for number in range(1, LINES + 1))
    return f"{lines}{token} end".encode()


@dataclass(slots=True)
class Functions:
    """What is executed."""

    steady: str
    moody: str
    timed: str

    @classmethod
    async def deployed(cls, client: AsyncClient) -> Functions:
        """Create and deploy them, and a schedule."""
        moody = await deploy(
            client,
            MOODY,
            max_attempts=10,
            initial_backoff=0.1,
            max_backoff=1,
            retry_on=CAUSES,
            queue_timeout=600,
        )
        functions = cls(
            await deploy(client, STEADY, queue_timeout=600),
            moody,
            await deploy(client, TIMED, queue_timeout=600),
        )
        await client.create_schedule(
            "chaos", function=functions.timed, interval=SCHEDULE_SECONDS, overlap_policy="queue"
        )
        return functions


@dataclass(slots=True)
class Ledger:
    """What callers were told."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Token of each execution whose name somebody was given."""
    answers: dict[str, bytes] = field(default_factory=dict)
    """Output of the executions that succeeded, as their callers got it."""
    unfinished: set[str] = field(default_factory=set)
    """Detached executions that were not seen to end."""


class Load:
    """Callers, until told to stop."""

    def __init__(self, client: AsyncClient, functions: Functions, seed: int) -> None:
        self.ledger = Ledger()
        self._client = client
        self._functions = functions
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._callers = [self._starts, self._starts, self._executes, self._executes, self._streams]

    async def run(self, seconds: float) -> None:
        """Call for so long, then let all callers get their last answer."""
        asyncio.get_running_loop().call_later(seconds, self._stopping.set)
        async with asyncio.TaskGroup() as group:
            for call in self._callers:
                group.create_task(self._repeat(call))

    async def _repeat(self, call: Callable[[str, str], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            token = str(uuid.uuid4())
            function = self._random.choice((self._functions.steady, self._functions.moody))
            await call(function, token)
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

    async def _executes(self, function: str, token: str) -> None:
        """Wait for the answer; a call that is cut off is repeated."""
        ended = await persist(
            lambda: self._client.execute(
                function, _line(token), request_id=token, labels={TOKEN: token}
            )
        )
        self.ledger.accepted[ended.name] = token
        if not ended.HasField("failure"):
            self.ledger.answers[ended.name] = ended.output

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
                if event.HasField("result") and not event.result.execution.HasField("failure"):
                    self.ledger.answers[event.execution] = output
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
