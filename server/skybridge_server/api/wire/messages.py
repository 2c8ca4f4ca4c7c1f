"""Messages as they are on the wire: a flag, a length, and the bytes, perhaps compressed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

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


class MessageReader:
    """Puts messages together again from pieces of a body."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._rest = b""

    @property
    def whole(self) -> bool:
        """Whether nothing is left of a message that is not complete."""
        return not self._rest

    def read(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are complete with `data`. CallError."""
        if self._rest:
            data = self._rest + data
        at = 0
        try:
            while len(data) - at >= _HEAD_BYTES:
                begin = at + _HEAD_BYTES
                end = begin + self._length(data[at + 1 : begin])
                if end > len(data):
                    break
                compressed, at = data[at], end
                message = data[begin:end]
                yield self._unpacked(message) if compressed else message
        finally:
            self._rest = data[at:]

    def _length(self, data: bytes) -> int:
        length = int.from_bytes(data, "big")
        if length > MAX_MESSAGE_BYTES:
            raise _too_large(f"has {length} bytes")
        return length

    def _unpacked(self, data: bytes) -> bytes:
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise CallError(
                grpc.StatusCode.UNIMPLEMENTED
                if self._encoding not in ENCODINGS
                else grpc.StatusCode.INTERNAL,
                f"a message compressed with '{self._encoding}'; known are {', '.join(ENCODINGS)}",
            )
        unpacker = zlib.decompressobj(bits)
        try:
            message = unpacker.decompress(data, MAX_MESSAGE_BYTES + 1)
        except zlib.error:
            raise CallError(
                grpc.StatusCode.INTERNAL, f"a message is not {self._encoding}"
            ) from None
        if len(message) > MAX_MESSAGE_BYTES:
            raise _too_large("unpacked has more bytes")
        return message


def _too_large(what: str) -> CallError:
    return CallError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"the message {what}, larger than max: {MAX_MESSAGE_BYTES}",
    )
