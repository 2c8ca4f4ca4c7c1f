"""A sandbox: a container of ours whose network namespace one container after the other may join."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from skybridge_server.errors import ContainerStartError, SkybridgeError
from skybridge_server.runtimes.base import Attachment
from skybridge_server.runtimes.docker_engine.sandbox_program import END

REPORT_SECONDS = 5
"""How long it may take to answer; it takes less than a millisecond unless the engine hangs."""


class Condition(Enum):
    """What became of the network namespace of a sandbox."""

    UNTOUCHED = auto()
    """As the engine made it: the next container finds no trace of an earlier one."""
    TOUCHED = auto()
    """Something was sent, or tried: sockets may linger for a minute, and counters for ever."""
    LOST = auto()
    """The sandbox has ended, or its engine went away."""


class Sandbox:
    """One sandbox, attached to: it tells of its network, and ends when we let go of it."""

    def __init__(self, name: str, container_id: str, attachment: Attachment) -> None:
        self.name = name
        self.id = container_id
        self._attachment = attachment
        self._untouched = b""
        self._reports: asyncio.Queue[bytes] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        return self._reader.done()

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call back once it has ended, or its engine went away."""
        self._reader.add_done_callback(lambda _: callback())

    async def settle(self) -> None:
        """Take its first report for what an untouched network looks like. ContainerStartError."""
        self._untouched = await self._report()
        if not self._untouched:
            raise ContainerStartError("the sandbox does not answer")

    async def look(self) -> Condition:
        """Ask what became of its network."""
        report = await self._report()
        if not report:
            return Condition.LOST
        return Condition.UNTOUCHED if report == self._untouched else Condition.TOUCHED

    async def close(self) -> None:
        """Let go of it; it ends by itself, and the engine removes it."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._attachment.close()

    async def _report(self) -> bytes:
        """Ask for a report; b'' if there is none."""
        if self.ended:
            return b""
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                await self._attachment.write(b"?")
                return await self._reports.get()
        except (SkybridgeError, OSError, TimeoutError):
            self._reader.cancel()  # or a late report would answer the next question
            return b""

    async def _read(self) -> None:
        report = b""
        try:
            with suppress(SkybridgeError):
                async for _, data in self._attachment.output():
                    report += data
                    if report.endswith(END):
                        self._reports.put_nowait(report)
                        report = b""
        finally:
            self._reports.put_nowait(b"")  # who waits for a report learns that there is none
