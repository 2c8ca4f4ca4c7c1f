"""How a call ends: its status and trailing metadata."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import grpc

from skybridge_server.http2.headers import STATUS_200, block

_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}


class CallError(Exception):
    """A call ends with another status than OK."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.metadata = tuple(metadata)


def entries(metadata: Iterable[tuple[str, str | bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """Yield metadata as headers; what is binary as base64."""
    for name, value in metadata:
        if isinstance(value, bytes):
            yield name.encode(), base64.b64encode(value).rstrip(b"=")
        else:
            yield name.encode(), value.encode("latin-1", "replace")


INITIAL = STATUS_200 + block(
    [
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", b"identity,deflate,gzip"),
    ]
)
"""The headers of every response."""


def initial(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return the headers of a response with metadata."""
    return INITIAL + block(entries(metadata))


OK = block([(b"grpc-status", b"0")])


def trailers(error: CallError) -> bytes:
    """Return the end of a call that failed."""
    return block(
        [
            (b"grpc-status", str(error.code.value[0]).encode()),
            (b"grpc-message", _encoded(error.message)),
            *entries(error.metadata),
        ]
    )


def refusal(http_status: int, message: str) -> bytes:
    """Return the answer to a request that is no gRPC call."""
    return block([(b":status", str(http_status).encode()), (b"grpc-message", _encoded(message))])


def _encoded(message: str) -> bytes:
    """Return a message percent-encoded, as it must be."""
    return b"".join(
        bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte
        for byte in message.encode(errors="replace")
    )
