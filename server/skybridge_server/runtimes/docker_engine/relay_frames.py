"""What a server and the program of a sandbox say to each other: program/sandbox.c has the rest.

Whoever opens a connection gives it a number that it has not used before. Both may send WINDOW bytes
of it ahead of what the other says it took. It is over once both have sent END and what was
under way is written, or one has sent CLOSE; what still comes of it then means nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

WINDOW = 64 * 1024
PAYLOAD_BYTES = 32 * 1024
_HEADER = struct.Struct("<II")


class Kind(IntEnum):
    """What a frame is for; `value` is what the text says."""

    REPORT = 1
    """Asks what the network has seen; it is answered in pieces, of which the last is empty."""
    CONNECT = 2
    """Asks for a connection to a port."""
    LISTEN = 3
    """Asks to listen on a port."""
    OPENED = 4
    """Answers either: done."""
    FAILED = 5
    """Answers either: an errno."""
    ACCEPTED = 6
    """There is a new connection to a port that is listened on."""
    DATA = 7
    """Bytes of a connection, at most PAYLOAD_BYTES."""
    TAKEN = 8
    """So many bytes were written to where they go."""
    END = 9
    """No more bytes will be sent."""
    CLOSE = 10
    """The connection was lost, by an errno, or nobody wants it any more; or so the listener."""
    RESET = 11
    """Another server speaks now: all connections and listeners of the one before are lost."""


_WITH_PAYLOAD = (Kind.REPORT, Kind.DATA)


class Frame(NamedTuple):
    """A frame of the program."""

    connection: int
    kind: Kind
    value: int
    payload: bytes


def word(connection: int, kind: Kind, value: int = 0) -> bytes:
    """Return a frame that is but a header."""
    return _HEADER.pack(connection, value | kind << 24)


def data(connection: int, payload: bytes | bytearray) -> bytes:
    """Return a frame of bytes of a connection."""
    return _HEADER.pack(connection, len(payload) | Kind.DATA << 24) + payload


class RelayParser:
    """Takes what the program writes, cut anywhere."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, received: bytes) -> Iterator[Frame]:
        """Yield what is whole; ValueError for what are no frames."""
        self._rest += received
        start = 0
        try:
            while len(self._rest) >= start + _HEADER.size:
                connection, about = _HEADER.unpack_from(self._rest, start)
                kind, value = Kind(about >> 24), about & 0xFFFFFF
                end = start + _HEADER.size + (value if kind in _WITH_PAYLOAD else 0)
                if end > len(self._rest):
                    break
                yield Frame(connection, kind, value, bytes(self._rest[start + _HEADER.size : end]))
                start = end
        finally:
            del self._rest[:start]
