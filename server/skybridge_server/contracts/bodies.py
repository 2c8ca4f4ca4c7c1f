"""Bodies of HTTP/1.1 messages: where they end, and what of the bytes is payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from skybridge_server.contracts.heads import FIELD, MAX_HEAD_BYTES, Framing, parse_fields
from skybridge_server.errors import InstanceGoneError, ProtocolError

MAX_SIZE_LINE_BYTES = 256

_SHOWN_BYTES = 80
# No chunk needs more than 8 digits, and no more can overflow anything.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER_LINE = re.compile(FIELD + rb"\r\n")


class Body(Protocol):
    """A body as it arrives."""

    done: bool
    """Whether all of it has arrived."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes, cut anywhere; return what of them is payload, and what comes after the body.

        ProtocolError when they cannot belong to this body.
        """
        ...

    def end(self) -> None:
        """Take the end of the connection; InstanceGoneError when the body needs more."""
        ...


class LengthBody:
    """So many bytes as the head said."""

    def __init__(self, length: int) -> None:
        self._length = self._left = length
        self.done = not length

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        payload = data[: self._left]
        self._left -= len(payload)
        self.done = not self._left
        return payload, data[len(payload) :]

    def end(self) -> None:
        if not self.done:
            raise InstanceGoneError(
                f"the connection ended after {self._length - self._left} of {self._length} bytes"
            )


class EndlessBody:
    """All until the connection ends."""

    done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""

    def end(self) -> None:
        self.done = True


class ChunkedBody:
    """Chunks, each after its size, and fields after the last."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0
        self._take_line = self._take_size
        self._trailers = b""
        self.done = False

    @property
    def trailers(self) -> Mapping[str, str]:
        """The fields after the last chunk, names in lower case."""
        return parse_fields(self._trailers)

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        data, self._line = self._line + data, b""
        pieces, at = [], 0
        while not self.done and at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                pieces.append(piece)
                at += len(piece)
            else:
                at = self._feed_line(data, at)
        return b"".join(pieces), data[at:]

    def end(self) -> None:
        if not self.done:
            raise InstanceGoneError("the connection ended before the last chunk")

    def _feed_line(self, data: bytes, at: int) -> int:
        """Take the line that starts at a position, or keep what is there of it."""
        end = data.find(b"\n", at) + 1
        if not end:
            self._line, end = data[at:], len(data)
            self._refuse_long(self._line)
        else:
            self._take_line(data[at:end])
        return end

    def _refuse_long(self, line: bytes) -> None:
        limit = MAX_HEAD_BYTES if self._take_line == self._take_trailer else MAX_SIZE_LINE_BYTES
        if len(line) + len(self._trailers) > limit:
            raise ProtocolError(f"more than {limit} bytes around a chunk")

    def _take_size(self, line: bytes) -> None:
        self._refuse_long(line)
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"not the size of a chunk: {line[:_SHOWN_BYTES]!r}")
        self._left = int(match[1], 16)
        self._take_line = self._take_chunk_end if self._left else self._take_trailer

    def _take_chunk_end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise ProtocolError(f"not the end of a chunk: {line[:_SHOWN_BYTES]!r}")
        self._take_line = self._take_size

    def _take_trailer(self, line: bytes) -> None:
        self._refuse_long(line)
        if line == b"\r\n":
            self.done = True
            parse_fields(self._trailers)
        elif _TRAILER_LINE.fullmatch(line):
            self._trailers += b"\r\n" + line[:-2]
        else:
            raise ProtocolError(f"not a trailer: {line[:_SHOWN_BYTES]!r}")


def body_of_response(status: int, framing: Framing) -> Body:
    """Return the body that follows the head of a response to a GET or POST."""
    if status in {204, 304}:
        return LengthBody(0)
    if framing.chunked:
        return ChunkedBody()
    return EndlessBody() if framing.length is None else LengthBody(framing.length)


def body_of_request(framing: Framing) -> LengthBody | ChunkedBody:
    """Return the body that follows the head of a request."""
    return ChunkedBody() if framing.chunked else LengthBody(framing.length or 0)
