"""A sandbox: a container of ours whose network namespace containers may join."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import NamedTuple

from skybridge_server.errors import ContainerStartError, SkybridgeError
from skybridge_server.runtimes.base import Attachment
from skybridge_server.runtimes.docker_engine.relay import Relay
from skybridge_server.runtimes.docker_engine.relay_frames import Frame, Kind, RelayParser, word

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


class NetworkIdentity(NamedTuple):
    """What tells a network namespace from all others."""

    namespace: str
    """As /proc/self/ns/net reads in it."""
    boot: str
    """The id of the kernel's boot."""


class Sandbox:
    """One sandbox, attached to: it tells of its network."""

    def __init__(self, name: str, container_id: str, attachment: Attachment) -> None:
        self.name = name
        self.id = container_id
        self.relay = Relay(self._send)
        """The ports of its network, as its program reaches them."""
        self._attachment = attachment
        self._untouched = b""
        self._report = b""
        self._reports: asyncio.Queue[bytes] = asyncio.Queue()
        self._unsent = bytearray()
        self._due = asyncio.Event()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        return self._reader.done()

    @property
    def network(self) -> NetworkIdentity:
        """Which network it keeps, once it has settled."""
        namespace, boot, *_ = self._untouched.decode().split("\n", 2)
        return NetworkIdentity(namespace, boot)

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call back once it has ended, or its engine went away."""
        self._reader.add_done_callback(lambda _: callback())

    def reset(self) -> None:
        """Undo what an earlier process had it do."""
        self._send(word(0, Kind.RESET))

    async def settle(self) -> None:
        """Take its first report for what an untouched network looks like. ContainerStartError."""
        self._untouched = await self._ask()
        if not self._untouched:
            raise ContainerStartError("the sandbox does not answer")

    async def look(self) -> Condition:
        """Ask what became of its network."""
        report = await self._ask()
        if not report:
            return Condition.LOST
        return Condition.UNTOUCHED if report == self._untouched else Condition.TOUCHED

    async def close(self) -> None:
        """Let go of it; it ends by itself, and the engine removes it, unless it is lasting."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._attachment.close()

    async def _ask(self) -> bytes:
        """Ask for a report; b'' if there is none."""
        if self.ended:
            return b""
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                self._send(word(0, Kind.REPORT))
                return await self._reports.get()
        except TimeoutError:
            self._reader.cancel()  # or a late report would answer the next question
            return b""

    # Frames leave through a task of their own, so that nobody who sends one has to wait: a reader
    # who waits for a program which waits for its reader would do so for ever.

    def _send(self, frame: bytes) -> None:
        self._unsent += frame
        self._due.set()

    async def _write(self) -> None:
        with suppress(SkybridgeError, OSError):  # who reads learns that it is over
            while await self._due.wait():
                self._due.clear()
                frames, self._unsent = bytes(self._unsent), bytearray()
                await self._attachment.write(frames)

    async def _read(self) -> None:
        parser = RelayParser()
        try:
            with suppress(SkybridgeError, ValueError):
                async for _, data in self._attachment.output():
                    for frame in parser.feed(data):
                        await self._take(frame)
        finally:
            self._writer.cancel()
            self._reports.put_nowait(b"")  # who waits for a report learns that there is none
            self.relay.close()

    async def _take(self, frame: Frame) -> None:
        if frame.kind is not Kind.REPORT:
            await self.relay.take(frame)
        elif frame.payload:
            self._report += frame.payload
        else:
            self._reports.put_nowait(self._report)
            self._report = b""
