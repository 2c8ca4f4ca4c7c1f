"""How an engine sends a body without a known length: HTTP's chunks."""

from __future__ import annotations

from collections.abc import Iterator

END_OF_LINE = b"\r\n"


class ChunkParser:
    """Takes what comes in, cut anywhere, and gives the payload of the chunks."""

    def __init__(self) -> None:
        self.ended = False
        """Whether the last chunk has come: an end before it is a broken connection."""
        self._line = bytearray()
        self._left = 0  # of the chunk, and of the end of line behind it

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Yield the pieces of payload in `data`, as views of it."""
        position = 0
        while position < len(data) and not self.ended:
            if self._left:
                piece = data[position : position + self._left]
                payload = piece[: max(self._left - len(END_OF_LINE), 0)]
                self._left -= len(piece)
                position += len(piece)
                if payload:
                    yield payload
            else:
                self._line += data[position : position + 1]
                position += 1
                self._open_chunk()

    def _open_chunk(self) -> None:
        if not self._line.endswith(END_OF_LINE):
            return
        size = int(self._line.split(b";")[0], 16)
        self._line.clear()
        self._left = size + len(END_OF_LINE)
        self.ended = size == 0
