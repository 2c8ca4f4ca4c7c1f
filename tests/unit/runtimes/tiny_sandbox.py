"""Sandboxes without an engine: their attachments, and who makes them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from skybridge_server.errors import ContainerGoneError
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.relay_frames import Kind, word
from skybridge_server.runtimes.docker_engine.sandbox import Sandbox


class TinyNetwork:
    """An attachment to a sandbox whose network is as `report` says."""

    def __init__(self, piece: int = 4096) -> None:
        self.report = b"lo: 0 packets"
        self.mute = False
        self.closed = False
        self.asked = asyncio.Event()
        self._piece = piece
        self._output: asyncio.Queue[bytes] = asyncio.Queue()

    @property
    def outlives_us(self) -> bool:
        return True

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        while data := await self._output.get():
            yield OutputStream.STDOUT, data

    async def write(self, data: bytes) -> None:
        self.asked.set()
        if self.mute:
            return
        request, end = word(0, Kind.REPORT), word(0, Kind.REPORT)
        told = word(0, Kind.REPORT, len(self.report)) + self.report
        answer = (told + end) * data.count(request)
        for start in range(0, len(answer), self._piece):
            self._output.put_nowait(answer[start : start + self._piece])

    async def close_input(self) -> None:
        self.end()

    async def close(self) -> None:
        self.closed = True

    def end(self) -> None:
        self._output.put_nowait(b"")


class TinyMaker:
    """Makes sandboxes of tiny networks, once `hold` is set, unless there is a `failure`."""

    def __init__(self) -> None:
        self.present: dict[str, TinyNetwork] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.hold_removal = asyncio.Event()
        self.hold_removal.set()
        self.asked = asyncio.Event()
        self.failure: Exception | None = None
        self.removal: Exception | None = None
        self.tried = self.made = self.making = 0
        self._ids = itertools.count()

    async def make(self, name: str) -> Sandbox:
        self.tried += 1
        self.making += 1
        self.asked.set()
        try:
            await self.hold.wait()
            if self.failure:
                raise self.failure
        finally:
            self.making -= 1
        self.made += 1
        network = TinyNetwork()
        sandbox = Sandbox(name, str(next(self._ids)), network)
        self.present[sandbox.id] = network
        try:
            await sandbox.settle()
        except BaseException:
            await self.remove(sandbox)
            raise
        return sandbox

    async def take_over(self, container_id: str) -> Sandbox:
        if container_id not in self.present:
            raise ContainerGoneError(container_id)
        sandbox = Sandbox(f"left-{container_id}", container_id, self.present[container_id])
        sandbox.reset()
        await sandbox.settle()
        return sandbox

    async def remove(self, sandbox: Sandbox) -> None:
        await sandbox.close()
        await self.hold_removal.wait()
        if self.removal:
            raise self.removal
        self.present.pop(sandbox.id, None)

    def end_all(self) -> None:
        for network in self.present.values():
            network.end()
