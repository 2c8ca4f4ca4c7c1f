"""What the headers of a request say: method, deadline, metadata, and how messages are packed."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from skybridge_server.http2.errors import BadStreamError, ErrorCode
from skybridge_server.http2.headers import Headers

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NAME = re.compile(rb"[0-9a-z_.-]+")
_NO_VALUE = re.compile(rb"[\0\r\n]")
_OF_HTTP = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
_RESERVED = {b"content-type", b"te"}


@dataclass(frozen=True, slots=True)
class Request:
    """A call, before its messages."""

    path: str
    """Such as `/skybridge.faas.v1.FunctionService/GetFunction`."""
    content_type: bytes
    encoding: str
    """How messages that say so are compressed."""
    timeout: float | None
    """Seconds; None: the caller waits for ever."""
    metadata: Metadata


def parse(headers: Headers) -> Request:
    """Return what headers say. BadStreamError: they are not those of a gRPC call over HTTP/2."""
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if _NO_VALUE.search(value):
            raise _malformed(f"a value of {name!r} with an end of line")
        if name.startswith(b":"):
            if fields or name in pseudo:
                raise _malformed(f"{name!r} twice, or after other headers")
            pseudo[name] = value
        elif name in _OF_HTTP or not _NAME.fullmatch(name):
            raise _malformed(f"a header named {name!r}")
        else:
            fields.append((name, value))
    if pseudo.keys() - {b":authority"} != {b":method", b":scheme", b":path"}:
        raise _malformed("there must be :method, :scheme and :path, and no others")
    if pseudo[b":method"] != b"POST":
        raise _malformed("calls are POSTs")
    known = dict(fields)
    return Request(
        path=pseudo[b":path"].decode("ascii", "replace"),
        content_type=known.get(b"content-type", b""),
        encoding=known.get(b"grpc-encoding", b"identity").decode("ascii", "replace"),
        timeout=_timeout(known.get(b"grpc-timeout")),
        metadata=tuple(
            entry for field in fields if _is_metadata(field[0]) for entry in _entries(*field)
        ),
    )


def _malformed(reason: str) -> BadStreamError:
    return BadStreamError(ErrorCode.PROTOCOL_ERROR, reason)


def _timeout(text: bytes | None) -> float | None:
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise _malformed("grpc-timeout is up to eight digits and one of H, M, S, m, u, n")
    return int(match[1]) * _SECONDS[match[2]]


def _is_metadata(name: bytes) -> bool:
    return name not in _RESERVED and not name.startswith(b"grpc-")


def _entries(name: bytes, value: bytes) -> Iterator[tuple[str, str | bytes]]:
    if not name.endswith(b"-bin"):
        yield name.decode(), value.decode("latin-1")
        return
    for part in value.split(b","):  # several values may have been joined on the way
        try:
            yield name.decode(), base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
        except binascii.Error:
            raise _malformed(f"{name!r} is not base64") from None
