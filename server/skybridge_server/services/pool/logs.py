"""What an instance writes to stdout and stderr: part of an execution's log, or of its own.

The engine hands output on late, by a millisecond or, on a busy machine, by many, and without saying
when it was written. So where the runtime can, a boundary is written into the streams behind what an
execution wrote: what comes before it is that execution's, however late. Elsewhere an instance that
writes at all is given a moment after each execution. What comes in doubt belongs to no execution:
it must never stand in the log of another. See docs/decisions/0021-boundaries-in-the-output.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from skybridge_server.errors import StorageError
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import WriteBoundary

DRAIN_SECONDS = 0.02
"""What an instance is given where there are no boundaries."""
DOUBT_SECONDS = 0.1
"""For how long the first output of an instance that never wrote may be of the execution before."""
PATIENCE = 2.0
"""Seconds for boundaries to come back; where they do not, there are none any more.

The time that it takes to store what comes before them does not count.
"""
FULL_PAUSE = 0.005
"""Seconds between two tries to write into a stream that the engine is slow to read."""
TAIL_BYTES = 8 * 1024

_STREAMS = tuple(OutputStream)

Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Cut:
    """A place in a stream, behind what one execution wrote."""

    boundary: bytes
    before: Write | None
    """Who gets what comes before it."""
    held: bytes = b""
    """The beginning of the boundary, perhaps."""

    def split(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return what is before the boundary, and behind it; None while it has not come."""
        data = self.held + data
        before, boundary, after = data.partition(self.boundary)
        if boundary:
            return before, after
        # It has one NUL, its first byte.
        start = data.rfind(self.boundary[:1])
        if start < 0 or not self.boundary.startswith(data[start:]):
            start = len(data)
        self.held = data[start:]
        return data[:start], None


class InstanceLog:
    """Sorts the output of one instance."""

    def __init__(self) -> None:
        self.tail = b""
        """The end of what belongs to no execution."""
        self.known = False
        """Whether it is known if the instance writes at all; it is not before an execution."""
        self.write_boundary: WriteBoundary | None = None
        """Writes into its streams, where that can be done."""
        self._write: Write | None = None
        self._routes: dict[OutputStream, Write | None] = {}
        """Who gets what comes now, and behind a boundary that has not come yet."""
        self._cuts: dict[OutputStream, Cut] = {}
        self._all_cut = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        """With boundaries that are under way."""
        self._patient_until = 0.0
        self._storing = False
        self._talks = False
        self._doubtful_until = 0.0

    async def add(self, stream: OutputStream, data: bytes) -> None:
        """Take what the instance wrote."""
        cut = self._cuts.get(stream)
        if cut is not None:
            before, after = cut.split(data)
            await self._add(cut.before, before)
            if after is None:
                return
            data = after
            self._cuts.pop(stream, None)
            self._tell_if_all_cut()
        await self._add(self._routes.get(stream), data)

    async def _add(self, write: Write | None, data: bytes) -> None:
        if not data:
            return
        if write is not None and self._is_certain():
            self._talks = True
            await self._store(write, data)
        else:
            self.tail = (self.tail + data)[-TAIL_BYTES:]

    async def _store(self, write: Write, data: bytes) -> None:
        """Hand output on; as long as that takes, nothing is read, and no boundary comes."""
        loop = asyncio.get_running_loop()
        began, self._storing = loop.time(), True
        self._be_patient()
        try:
            with suppress(StorageError):  # the execution finds out by itself
                await write(data)
        finally:
            self._patient_until += loop.time() - began
            self._storing = False
            self._be_patient()

    def belongs_to(self, write: Write | None) -> None:
        """Let output belong to an execution, the only one that runs; None: it runs no more."""
        if write is None and self._write is None:
            return
        self._write = write
        self._routes = dict.fromkeys(_STREAMS, write)
        for cut in self._cuts.values():
            if write is None or cut.before is not None:  # it has ended, or goes on elsewhere
                cut.before = write

    def end(self) -> None:
        """Hear that nothing comes any more."""
        self._cuts.clear()
        self._tell_if_all_cut()

    async def settle(self) -> None:
        """Wait for what was written until now, from an instance that writes at all, or may."""
        if self.settle_at_once():
            return
        self.known = True
        if self.write_boundary is None or self._write is None:
            await asyncio.sleep(DRAIN_SECONDS)
        else:
            await self._cut_off(self.write_boundary, self._write)

    def settle_at_once(self) -> bool:
        """Do as `settle` does, if that needs no wait; False: nothing has been done."""
        if self._write is not None:
            if self._talks or not self.known:
                return False
            self._doubtful_until = asyncio.get_running_loop().time() + DOUBT_SECONDS
        self.known = True
        return True

    # -- boundaries -----------------------------------------------------------------------------

    async def _cut_off(self, write_boundary: WriteBoundary, write: Write) -> None:
        """Give an execution what comes before a boundary, and nobody what comes behind it."""
        try:
            await self._pass_boundaries(write_boundary, write)
        except OSError:  # a timeout is one, too
            self.write_boundary = None
            for cut in self._cuts.values():
                cut.before = None
            await asyncio.sleep(DRAIN_SECONDS)
        except asyncio.CancelledError:
            self.belongs_to(write)  # it goes on without its caller
            raise

    async def _pass_boundaries(self, write_boundary: WriteBoundary, write: Write) -> None:
        """Write boundaries, and wait until they come back. OSError: they cannot, or do not."""
        try:
            self._patient_until = asyncio.get_running_loop().time() + PATIENCE
            async with asyncio.timeout(None) as self._patience:
                self._be_patient()
                await self._until_all_cut()  # of one that was cancelled
                await self._cut(write_boundary, write)
                await self._until_all_cut()
        finally:
            self._patience = None

    def _be_patient(self) -> None:
        """Let the time run that boundaries are given or, while nothing is read, stand still."""
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(None if self._storing else self._patient_until)

    async def _cut(self, write_boundary: WriteBoundary, write: Write) -> None:
        """Write a boundary into all streams. OSError."""
        # No function can tell it beforehand, and none writes it by chance.
        boundary = b"\0" + secrets.token_hex(16).encode() + b"\n"
        streams = {*OutputStream}
        while streams:
            taken = [*write_boundary(boundary, streams)]
            for stream in taken:
                self._cuts[stream], self._routes[stream] = Cut(boundary, write), None
            streams.difference_update(taken)
            if streams:
                await asyncio.sleep(FULL_PAUSE)

    async def _until_all_cut(self) -> None:
        while self._cuts:
            self._all_cut.clear()
            await self._all_cut.wait()

    def _tell_if_all_cut(self) -> None:
        if not self._cuts:
            self._all_cut.set()

    # -- doubt ----------------------------------------------------------------------------------

    def _is_certain(self) -> bool:
        """Tell whether output can only be of the execution that runs now."""
        if not self._doubtful_until:
            return True
        if asyncio.get_running_loop().time() < self._doubtful_until:
            self._talks = True
            return False
        self._doubtful_until = 0.0
        return True
