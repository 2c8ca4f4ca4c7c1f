"""Takes what a client sends apart into frames, with blocks of headers put together again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import BadConnectionError, ErrorCode
from skybridge_server.http2.headers import MAX_BLOCK_BYTES

_PRIORITY_BYTES = 5
_MAX_PIECES = 16


class Frame(NamedTuple):
    """A frame; of HEADERS, the payload is the whole block; padding is gone."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    size: int
    """Bytes of the payload as it came, which is what windows count."""


class FrameReader:
    """Reads the bytes of one connection, from the preface on."""

    def __init__(self) -> None:
        self._rest = b""
        self._began = False
        self._headers: Frame | None = None
        """The beginning of a block of headers whose continuation is to come."""
        self._pieces: list[bytes] = []

    @property
    def began(self) -> bool:
        """Whether the peer has said that it speaks HTTP/2."""
        return self._began

    def read(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with `data`. BadConnectionError."""
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        if not self._began:
            at = self._skip_preface(data)
            if not self._began:
                self._rest = data
                return
        try:
            while size - at >= frames.HEAD_BYTES:
                begin = at + frames.HEAD_BYTES
                length = int.from_bytes(data[at : at + 3], "big")
                if length > frames.MIN_FRAME_BYTES:
                    raise BadConnectionError(
                        ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes"
                    )
                if size - begin < length:
                    break
                kind, flags = data[at + 3], data[at + 4]
                stream = int.from_bytes(data[at + 5 : begin], "big") & frames.MAX_STREAM_ID
                at = begin + length
                frame = Frame(kind, flags, stream, data[begin:at], length)
                if kind == frames.DATA and self._headers is None:
                    yield _unpadded(frame) if flags & frames.PADDED else frame
                else:
                    yield from self._assembled(frame)
        finally:
            self._rest = data[at:]

    def _skip_preface(self, data: bytes) -> int:
        if not frames.PREFACE.startswith(data[: len(frames.PREFACE)]):
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._began = len(data) >= len(frames.PREFACE)
        return len(frames.PREFACE) if self._began else 0

    def _assembled(self, frame: Frame) -> Iterator[Frame]:
        """Yield a frame, unless more of the same headers is to come."""
        if frame.kind == frames.CONTINUATION:
            frame = self._continued(frame)
        elif self._headers is not None:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "headers were not continued")
        elif frame.kind == frames.HEADERS:
            frame = _unprioritised(_unpadded(frame) if frame.flags & frames.PADDED else frame)
            self._headers, self._pieces = frame, [frame.payload]
        if self._headers is None:
            yield frame
        elif frame.flags & frames.END_HEADERS:
            first, self._headers = self._headers, None
            yield first._replace(payload=b"".join(self._pieces))

    def _continued(self, frame: Frame) -> Frame:
        if self._headers is None or self._headers.stream != frame.stream:
            raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "nothing is to be continued")
        self._pieces.append(frame.payload)
        if len(self._pieces) > _MAX_PIECES or sum(map(len, self._pieces)) > MAX_BLOCK_BYTES:
            raise BadConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "headers without an end")
        return frame


def _unpadded(frame: Frame) -> Frame:
    padding = frame.payload[0] if frame.payload else 0
    if 1 + padding > frame.size:
        raise BadConnectionError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return frame._replace(payload=frame.payload[1 : frame.size - padding])


def _unprioritised(frame: Frame) -> Frame:
    if not frame.flags & frames.PRIORITISED:
        return frame
    if len(frame.payload) < _PRIORITY_BYTES:
        raise BadConnectionError(ErrorCode.FRAME_SIZE_ERROR, "no room for a priority")
    return frame._replace(payload=frame.payload[_PRIORITY_BYTES:])
