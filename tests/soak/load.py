"""A steady load of everything: each caller calls, checks the answer, and waits for a moment."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable

from skybridge_client import AsyncClient
from tests.support.functions import collect, deploy, output, told
from tests.support.http_function import deploy_http

SCHEDULE_SECONDS = 5
FLAKY = '[ "$SKYBRIDGE_ATTEMPT" = 1 ] && exit 9; cat'


class Load:
    """Callers, until told to stop. An answer that is wrong ends it."""

    def __init__(self, client: AsyncClient, cold: str, flaky: str, warm: str) -> None:
        self.calls: Counter[str] = Counter()
        self.hurried = True
        """Whether callers do not pause: what fills up with use shall do so soon."""
        self._client = client
        self._cold = cold
        self._flaky = flaky
        self._warm = warm
        self._stopping = asyncio.Event()

    @classmethod
    async def deployed(cls, client: AsyncClient) -> Load:
        """Create and deploy what is executed, and a schedule."""
        cold = await deploy(client, "cat; echo seen >&2")
        flaky = await deploy(
            client, FLAKY, max_attempts=3, initial_backoff=0.1, retry_on=["exit_code"]
        )
        warm = await deploy_http(client, min_instances=1, max_instances=2)
        await client.create_schedule("soak", function=cold, interval=SCHEDULE_SECONDS)
        return cls(client, cold, flaky, warm)

    async def run(self) -> None:
        """Call until stopped."""
        async with asyncio.TaskGroup() as group:
            for pause, call in (
                (0.02, self._execute_warm),
                (0.02, self._execute_warm),
                (0.1, self._execute_cold),
                (0.1, self._stream),
                (0.5, self._start_flaky),
                (0.2, self._look),
            ):
                group.create_task(self._repeat(pause, call))

    def stop(self) -> None:
        """Let each caller get its last answer."""
        self._stopping.set()

    async def _repeat(self, pause: float, call: Callable[[bytes], Awaitable[None]]) -> None:
        while not self._stopping.is_set():
            await call(uuid.uuid4().bytes)
            self.calls[call.__name__.strip("_").replace("_", " ")] += 1
            await asyncio.sleep(0 if self.hurried else pause)

    async def _execute_warm(self, data: bytes) -> None:
        text = b"echo " + data.hex().encode()
        assert (await self._client.execute(self._warm, text)).output == text

    async def _execute_cold(self, data: bytes) -> None:
        assert (await self._client.execute(self._cold, data)).output == data

    async def _stream(self, data: bytes) -> None:
        assert output(await collect(self._client.stream(self._cold, data))) == data

    async def _start_flaky(self, data: bytes) -> None:
        started = await self._client.start(self._flaky, data)
        ended = await self._client.wait(started.name)
        assert (told(ended)[0], ended.attempt, ended.output) == ("SUCCEEDED", 2, data)

    async def _look(self, _: bytes) -> None:
        async for execution in self._client.list_executions(page_size=20):
            await self._client.get_execution(execution.name)
            break  # the newest; others are another page
