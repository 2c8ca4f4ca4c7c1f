"""Bytes that are no message of their type: the caller's error, told like any other.

grpc answers a deserializer that raises by itself, with UNKNOWN and no details. So ours does not
raise: it returns a stand-in, which is refused once the call is under our care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from skybridge_server.errors import FieldViolation, InvalidArgumentError

Deserializer = Callable[[bytes], Any]

_MALFORMED = object()


def lenient(deserialize: Deserializer) -> Deserializer:
    """Return a deserializer that never raises."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _MALFORMED

    return read


def checked(request: Any) -> Any:
    """Return a request. InvalidArgumentError: it was malformed."""
    if request is _MALFORMED:
        raise InvalidArgumentError(
            FieldViolation("request", "must be a protobuf message of the method's request type")
        )
    return request
