"""What a container writes, for who was not attached to it from the beginning.

The engine keeps the output in a log, from which all of it can be had again. What the journal has is
left out, byte by byte; its last bytes must be where the log has them, or the log has lost something
and nobody knows what.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from skybridge_server.errors import OutputLostError
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import Containers

TAIL_BYTES = 32 * 1024
"""How much of the journal's end is compared: more than a log can be behind it."""


class Replay:
    """The output of one container behind what a journal has of it."""

    def __init__(
        self,
        containers: Containers,
        container_id: str,
        kept: Mapping[OutputStream, int],
        tails: Mapping[OutputStream, bytes],
        *,
        log_complete: bool,
    ) -> None:
        """Take how many bytes of each stream the journal has, and the last of them.

        `log_complete`: the log will have all that was written, even if it may be behind.
        """
        self._containers = containers
        self._id = container_id
        self._kept = kept
        self._tails = tails
        self._log_complete = log_complete
        self._position = dict(kept)
        self._whole = True
        self.doubtful: frozenset[OutputStream] = frozenset()
        """Known at the end: streams that may have one more newline there."""

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        """Yield it to the end of the container. OutputLostError, RuntimeUnavailableError."""
        seen = await self._survey()
        if not self._log_complete:
            self._check_reached(seen)
        async for piece in self._fresh(follow=True):
            yield piece
        await self._containers.wait(self._id)
        if self._whole:  # else it has lost its beginning while we followed it
            async for piece in self._fresh(follow=False):
                yield piece

    async def _survey(self) -> dict[OutputStream, int]:
        """Compare all that is there with the journal, before any of it is taken."""
        seen = dict.fromkeys(OutputStream, 0)
        async for stream, begin, data in self._read(follow=False):
            seen[stream] = begin + len(data)
        if not self._whole and not all(self._kept.values()):
            raise OutputLostError("the engine may have thrown away the beginning of the output")
        return seen

    async def _fresh(self, *, follow: bool) -> AsyncIterator[tuple[OutputStream, bytes]]:
        """Yield what lies behind the position, and move it."""
        seen = dict.fromkeys(OutputStream, 0)
        async for stream, begin, data in self._read(follow=follow):
            seen[stream] = begin + len(data)
            fresh = data[max(self._position[stream] - begin, 0) :]
            if fresh:
                self._position[stream] += len(fresh)
                yield stream, fresh
        if not follow:
            self._check_reached(seen)

    async def _read(self, *, follow: bool) -> AsyncIterator[tuple[OutputStream, int, bytes]]:
        """Yield pieces of the log and where they begin in their stream."""
        recording = await self._containers.logs(self._id, follow=follow)
        try:
            ends = dict.fromkeys(OutputStream, 0)
            async for stream, data in recording.output():
                begin = ends[stream]
                ends[stream] += len(data)
                self._compare(stream, begin, data)
                yield stream, begin, data
            self._whole, self.doubtful = recording.whole, recording.doubtful
        finally:
            await recording.close()

    def _compare(self, stream: OutputStream, begin: int, data: bytes) -> None:
        """Compare a piece with what the journal has of its place."""
        tail, kept = self._tails[stream], self._kept[stream]
        first = max(begin, kept - len(tail))
        last = min(begin + len(data), kept)
        if first >= last:
            return
        journal_begin = kept - len(tail)
        if data[first - begin : last - begin] != tail[first - journal_begin : last - journal_begin]:
            raise OutputLostError("the engine's log has other output than was seen before")

    def _check_reached(self, seen: Mapping[OutputStream, int]) -> None:
        """Check that the log has at least what was seen of the output before."""
        if any(seen[stream] < self._position[stream] for stream in OutputStream):
            raise OutputLostError("the engine's log lacks output that was seen before")
