"""How an engine sends stdout and stderr over one connection: frames with a header of 8 bytes."""

from __future__ import annotations

from collections.abc import Iterator

from skybridge_server.models.journal import OutputStream

HEADER_BYTES = 8
_STREAMS = {
    bytes([stream, 0, 0, 0]): stream for stream in (OutputStream.STDOUT, OutputStream.STDERR)
}


class FrameError(ValueError):
    """These bytes are no frames of output."""


class FrameParser:
    """Takes what comes in, cut anywhere, and gives the payload of the frames."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = OutputStream.STDOUT
        self._left = 0

    @property
    def inside_frame(self) -> bool:
        """Whether an end here would cut a frame."""
        return bool(self._left or self._header)

    def feed(self, data: memoryview) -> Iterator[tuple[OutputStream, memoryview]]:
        """Yield the pieces of payload in `data`, as views of it; raises FrameError.

        Of a frame without payload, that is one empty piece.
        """
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                self._left -= len(piece)
                yield self._stream, piece
            else:
                piece = data[position : position + HEADER_BYTES - len(self._header)]
                self._header += piece
                if self._open_frame() and not self._left:
                    yield self._stream, data[:0]
            position += len(piece)

    def _open_frame(self) -> bool:
        """Open a frame if its header is complete, and tell whether it is."""
        if len(self._header) < HEADER_BYTES:
            return False
        stream = _STREAMS.get(bytes(self._header[:4]))
        if stream is None:
            raise FrameError(f"not the header of a frame of output: {self._header.hex()}")
        self._stream = stream
        self._left = int.from_bytes(self._header[4:], "big")
        self._header.clear()
        return True
