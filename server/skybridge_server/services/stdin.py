"""The stdin of an attached execution: how much was taken, and who writes."""

from __future__ import annotations

import asyncio

from skybridge_server.errors import AbortedError, OutOfRangeError
from skybridge_server.runtimes.base import Attachment


class Stdin:
    """Counts what was handed to the process, so that a caller can go on after a cut."""

    def __init__(self) -> None:
        self.committed = 0
        self.closed = False
        self._writer: object | None = None
        self._writing: asyncio.Task[None] | None = None

    def claim(self, writer: object) -> None:
        """Become the one who writes. AbortedError while somebody else is."""
        if self._writer not in {None, writer}:
            raise AbortedError(
                "another caller writes the execution's stdin: wait until it leaves",
                reason="STDIN_BUSY",
            )
        self._writer = writer

    def release(self, writer: object) -> None:
        """Let others write."""
        if self._writer is writer:
            self._writer = None

    async def write(self, attachment: Attachment, offset: int, data: bytes, *, end: bool) -> None:
        """Hand on what of `data`, which starts at `offset`, is new; close stdin if `end`.

        OutOfRangeError when it leaves a hole. What is handed on goes all the way and is counted,
        also when this is cancelled meanwhile: the next caller must know what to leave out.
        """
        while self._writing is not None:
            await asyncio.wait({self._writing})
        if self.closed:
            return
        if offset > self.committed:
            raise OutOfRangeError(
                f"offset {offset} leaves a hole: {self.committed} bytes of stdin were taken",
                metadata={"committed_bytes": str(self.committed)},
            )
        fresh = data[self.committed - offset :]
        self._writing = asyncio.create_task(self._hand_on(attachment, fresh, end))
        await asyncio.shield(self._writing)

    async def _hand_on(self, attachment: Attachment, data: bytes, end: bool) -> None:
        try:
            if data:
                await attachment.write(data)
                self.committed += len(data)
            if end:
                self.closed = True
                await attachment.close_input()
        except OSError:  # the process reads no more
            self.closed = True
        finally:
            self._writing = None
