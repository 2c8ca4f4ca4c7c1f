"""What an instance writes to stdout and stderr: part of an execution's log, or of its own.

The engine hands output on some milliseconds late, and without saying when it was written. So an
instance that writes at all is given a moment after each execution, and what comes in doubt belongs
to no execution: it must never stand in the log of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from skybridge_server.errors import StorageError

DRAIN_SECONDS = 0.02
"""How late output may come; measured: 1 to 5 ms on a busy machine."""
TAIL_BYTES = 8 * 1024

Write = Callable[[bytes], Awaitable[None]]


class InstanceLog:
    """Sorts the output of one instance."""

    def __init__(self) -> None:
        self.tail = b""
        """The end of what belongs to no execution."""
        self.known = False
        """Whether it is known if the instance writes at all; it is not before an execution."""
        self._write: Write | None = None
        self._talks = False
        self._doubtful_until = 0.0

    async def add(self, data: bytes) -> None:
        """Take what the instance wrote."""
        if self._write is not None and self._is_certain():
            self._talks = True
            with suppress(StorageError):  # the execution finds out by itself
                await self._write(data)
        else:
            self.tail = (self.tail + data)[-TAIL_BYTES:]

    def belongs_to(self, write: Write | None) -> None:
        """Let output belong to an execution, the only one that runs; None: it runs no more."""
        self._write = write

    async def settle(self) -> None:
        """Wait for what was written until now, from an instance that writes at all, or may."""
        first, self.known = not self.known, True
        if self._write is None:
            return
        if first or self._talks:
            await asyncio.sleep(DRAIN_SECONDS)
        else:
            self._doubtful_until = asyncio.get_running_loop().time() + DRAIN_SECONDS

    def _is_certain(self) -> bool:
        """Tell whether output can only be of the execution that runs now."""
        if not self._doubtful_until:
            return True
        if asyncio.get_running_loop().time() < self._doubtful_until:
            self._talks = True
            return False
        self._doubtful_until = 0.0
        return True
