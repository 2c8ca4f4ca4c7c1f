"""Frames (RFC 9113, sections 4 and 6): their kinds and flags, and how they are written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from skybridge_server.http2.errors import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of every client."""

HEAD_BYTES = 9
MIN_FRAME_BYTES = 16_384
"""The size that every peer takes, and the largest that this one does."""

MAX_STREAM_ID = 0x7FFF_FFFF
MAX_WINDOW = 0x7FFF_FFFF

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20


class Setting(IntEnum):
    """The parameters of SETTINGS that mean something here."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


_head = struct.Struct(">HBBBL").pack
_number = struct.Struct(">L").pack
_setting = struct.Struct(">HL").pack


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """Return the head of a frame whose payload has `length` bytes."""
    return _head(length >> 8, length & 0xFF, kind, flags, stream)


def headers(stream: int, block: bytes, most: int, *, end: bool = False) -> bytes:
    """Return a block of headers, in frames with at most `most` bytes."""
    ending = END_STREAM if end else 0
    if len(block) <= most:
        return head(HEADERS, END_HEADERS | ending, stream, len(block)) + block
    pieces = [block[at : at + most] for at in range(0, len(block), most)]
    kinds = [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
    flags = [ending] + [0] * (len(pieces) - 2) + [END_HEADERS]
    return b"".join(
        head(kind, flag, stream, len(piece)) + piece
        for kind, flag, piece in zip(kinds, flags, pieces, strict=True)
    )


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(_setting(key, value) for key, value in values.items())
    return head(SETTINGS, 0, 0, len(payload)) + payload


def settings_of(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the parameters of a SETTINGS frame, whose payload has 6 bytes for each."""
    yield from struct.iter_unpack(">HL", payload)


SETTINGS_ACK = head(SETTINGS, ACK, 0, 0)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """Return a PING of 8 bytes, or the answer to one."""
    return head(PING, ACK if ack else 0, 0, 8) + payload


def window_update(stream: int, more: int) -> bytes:
    """Return a WINDOW_UPDATE; `stream` 0 is the connection."""
    return head(WINDOW_UPDATE, 0, stream, 4) + _number(more)


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """Return the end of a stream."""
    return head(RST_STREAM, 0, stream, 4) + _number(code)


def goaway(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY: streams after `last_stream` were not and will not be processed."""
    payload = _number(last_stream) + _number(code) + reason.encode()
    return head(GOAWAY, 0, 0, len(payload)) + payload
