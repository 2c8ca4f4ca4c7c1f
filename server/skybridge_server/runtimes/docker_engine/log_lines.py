"""How an engine keeps what a container wrote: line by line, in a log from which much can be read.

A line that is longer than 16 KiB is kept in pieces, and some engines forget the newline behind the
last of them. So a shorter piece that goes on with such a line gets a newline back; but if nothing
follows it, it may as well be an end without one, and nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterator

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.chunks import ChunkParser
from skybridge_server.runtimes.docker_engine.frames import FrameParser

PIECE_BYTES = 16 * 1024
ENTRY_BYTES = 128
"""What a line costs in the log beside its bytes, at most."""
NEWLINE = memoryview(b"\n")


class LogParser:
    """Takes a log as an engine sends it, cut anywhere, and gives what the container wrote."""

    def __init__(self) -> None:
        self.log_bytes = 0
        """How large the log is, or less."""
        self._chunks = ChunkParser()
        self._frames = FrameParser()
        self._size = 0
        self._in_line: set[OutputStream] = set()
        self._owing: set[OutputStream] = set()

    @property
    def inside_frame(self) -> bool:
        """Whether an end here would come too early."""
        return not self._chunks.ended or self._frames.inside_frame

    @property
    def doubtful(self) -> frozenset[OutputStream]:
        """The streams behind whose end there may have been one more newline."""
        return frozenset(self._owing)

    def feed(self, data: memoryview) -> Iterator[tuple[OutputStream, memoryview]]:
        """Yield the pieces of output in `data`; raises ValueError."""
        for chunk in self._chunks.feed(data):
            for stream, piece in self._frames.feed(chunk):
                if stream in self._owing:
                    self._owing.remove(stream)
                    yield stream, NEWLINE
                if piece:
                    yield stream, piece
                self._size += len(piece)
                if not self._frames.inside_frame:
                    self._end_entry(stream, ends_line=bytes(piece[-1:]) == b"\n")

    def _end_entry(self, stream: OutputStream, *, ends_line: bool) -> None:
        if ends_line:
            self._in_line.discard(stream)
        elif self._size >= PIECE_BYTES:
            self._in_line.add(stream)
        elif stream in self._in_line:
            self._in_line.remove(stream)
            self._owing.add(stream)
        self.log_bytes += self._size + ENTRY_BYTES
        self._size = 0
