"""Messages as they are on the wire: a flag, a length, and the bytes, perhaps compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import grpc

from skybridge_server.api.wire.status import CallError

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_HEAD_BYTES = 5
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = ("identity", *_WINDOW_BITS)

_head = struct.Struct(">BL").pack


def framed(message: bytes) -> bytes:
    """Return a message as it is sent. CallError: it is too large."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise CallError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"the answer has {len(message)} bytes, more than {MAX_MESSAGE_BYTES}",
        )
    return _head(0, len(message)) + message


class Packed(NamedTuple):
    """A message as it came. It is unpacked when its turn comes: what waits may be much larger."""

    compressed: bool
    data: bytes

    @property
    def size(self) -> int:
        """Return how many bytes came."""
        return _HEAD_BYTES + len(self.data)


class MessageReader:
    """Puts messages together again from pieces of a body."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._missing = 0
        """Bytes without which the rest is not worth a look."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left of a message that is not complete."""
        return not self._rest

    def read(self, data: bytes) -> Iterator[Packed]:
        """Yield the messages that are complete with `data`. CallError."""
        if self._rest:
            self._rest += data
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = bytes(self._rest)
        at, size = 0, len(data)
        while True:
            begin = end = at + _HEAD_BYTES
            if begin <= size:
                end += _length(data[at + 1 : begin])
            if end > size:
                self._rest, self._missing = bytearray(data[at:]), end - size
                return
            yield Packed(bool(data[at]), data[begin:end])
            at = end


def _length(data: bytes) -> int:
    length = int.from_bytes(data, "big")
    if length > MAX_MESSAGE_BYTES:
        raise _too_large(f"has {length} bytes")
    return length


def unpacked(message: Packed, encoding: str) -> bytes:
    """Return what was sent; `encoding`: how, if it is compressed. CallError."""
    if not message.compressed:
        return message.data
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise CallError(
            grpc.StatusCode.UNIMPLEMENTED
            if encoding not in ENCODINGS
            else grpc.StatusCode.INTERNAL,
            f"a message compressed with '{encoding}'; known are {', '.join(ENCODINGS)}",
        )
    return _decompressed(message.data, bits, encoding) if message.data else b""


def _decompressed(data: bytes, bits: int, encoding: str) -> bytes:
    unpacker = zlib.decompressobj(bits)
    try:
        message = unpacker.decompress(data, MAX_MESSAGE_BYTES + 1)
    except zlib.error:
        message = b""
    if len(message) > MAX_MESSAGE_BYTES:
        raise _too_large("unpacked has more bytes")
    if not unpacker.eof:
        raise CallError(grpc.StatusCode.INTERNAL, f"a message is not {encoding}")
    return message


def _too_large(what: str) -> CallError:
    return CallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"the message {what}, larger than max: {MAX_MESSAGE_BYTES}",
    )
