"""The stdin of an attached execution: how much was taken, and who writes."""

from __future__ import annotations

from skybridge_server.errors import AbortedError, OutOfRangeError
from skybridge_server.runtimes.base import Attachment


class Stdin:
    """Counts what was handed to the process, so that a caller can go on after a cut."""

    def __init__(self) -> None:
        self.committed = 0
        self.closed = False
        self._writer: object | None = None

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

    def fresh(self, offset: int, data: bytes) -> bytes:
        """Return what of `data`, which starts at `offset`, was not taken before.

        OutOfRangeError when it leaves a hole.
        """
        if offset > self.committed:
            raise OutOfRangeError(
                f"offset {offset} leaves a hole: {self.committed} bytes of stdin were taken",
                metadata={"committed_bytes": str(self.committed)},
            )
        return data[self.committed - offset :]

    async def write(self, attachment: Attachment, data: bytes, *, end: bool) -> None:
        """Hand bytes to the process, and close its stdin if `end`."""
        if self.closed:
            return
        if data:
            await attachment.write(data)
            self.committed += len(data)
        if end:
            self.closed = True
            await attachment.close_input()
