"""Turns errors into gRPC statuses with google.rpc details, cut to what fits a trailer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)

from skybridge_server import errors

DOMAIN = "skybridge.faas"
DETAILS_KEY = "grpc-status-details-bin"
RETRY_UNAVAILABLE = timedelta(seconds=1)

CODES: Mapping[type[Exception], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AbortedError: grpc.StatusCode.ABORTED,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.OutputLostError: grpc.StatusCode.DATA_LOSS,
}

# Peers drop trailers over 8 KiB, and with them the error. Some carry the details as base64, a
# third longer, and the message percent-encoded: 6 KiB + 1 KiB leaves room for the other entries.
MAX_DETAILS_BYTES = 4608
MAX_MESSAGE_BYTES = 1024
MAX_VIOLATIONS = 25
MAX_METADATA = 8
# Texts are cut to the first of these widths with which the details fit; the last one always does.
_WIDTHS = (MAX_MESSAGE_BYTES, 256, 128, 64, 32)


@dataclass(frozen=True, slots=True)
class Status:
    """What a caller is told."""

    code: grpc.StatusCode
    message: str
    details: bytes
    """A serialized google.rpc.Status."""


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """Return the code of an error's nearest class in the table; None: it is unknown."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)


def status_of(error: BaseException, request_id: str) -> Status:
    """Return what a caller is told about an error; of an unknown one, only where to look."""
    code = code_of(error)
    if isinstance(error, errors.SkybridgeError) and code is not None:
        return _status(code, error)
    blank = errors.SkybridgeError("internal error", metadata={"request_id": request_id})
    return _status(grpc.StatusCode.INTERNAL, blank)


def _status(code: grpc.StatusCode, error: errors.SkybridgeError) -> Status:
    message = _message(error)
    details = b""
    for width in _WIDTHS:
        details = _serialize(code, message, _details(error, width))
        if len(details) <= MAX_DETAILS_BYTES:
            break
    return Status(code, message, details)


def _serialize(code: grpc.StatusCode, message: str, details: Iterator[Message]) -> bytes:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    serialized: bytes = status.SerializeToString()
    return serialized


def _message(error: errors.SkybridgeError) -> str:
    if not isinstance(error, errors.InvalidArgumentError):
        return _cut_encoded(error.message, MAX_MESSAGE_BYTES)
    more = len(error.violations) - MAX_VIOLATIONS
    if more <= 0:
        return _cut_encoded(error.message, MAX_MESSAGE_BYTES)
    shown = "; ".join(f"{v.field}: {v.description}" for v in error.violations[:MAX_VIOLATIONS])
    ending = f"; and {more} more"
    return _cut_encoded(shown, MAX_MESSAGE_BYTES - len(ending)) + ending


def _details(error: errors.SkybridgeError, width: int) -> Iterator[Message]:
    yield _error_info(error, width)
    if isinstance(error, errors.InvalidArgumentError):
        yield _bad_request(error, width)
    elif isinstance(error, errors.NotFoundError):
        yield ResourceInfo(
            resource_type=_cut(error.resource_type, width),
            resource_name=_cut(error.resource_name, width),
        )
    elif isinstance(error, errors.ResourceExhaustedError):
        violation = QuotaFailure.Violation(
            subject=_cut(error.subject, width), description=_cut(error.message, width)
        )
        yield QuotaFailure(violations=[violation])
        yield _retry_info(error.retry_after)
    elif isinstance(error, errors.UnavailableError):
        yield _retry_info(RETRY_UNAVAILABLE)


def _error_info(error: errors.SkybridgeError, width: int) -> ErrorInfo:
    metadata = list(error.metadata.items())[:MAX_METADATA]
    return ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={_cut(key, width): _cut(value, width) for key, value in metadata},
    )


def _bad_request(error: errors.InvalidArgumentError, width: int) -> BadRequest:
    return BadRequest(
        field_violations=[
            BadRequest.FieldViolation(
                field=_cut(violation.field, width), description=_cut(violation.description, width)
            )
            for violation in error.violations[:MAX_VIOLATIONS]
        ]
    )


def _retry_info(after: timedelta) -> RetryInfo:
    delay = Duration()
    delay.FromTimedelta(after)
    return RetryInfo(retry_delay=delay)


def _cut(text: str, width: int) -> str:
    """Return what fits in `width` bytes of UTF-8, with an ellipsis where something is missing."""
    data = text.encode(errors="replace")
    if len(data) <= width:
        return data.decode()
    return data[: width - 3].decode(errors="ignore") + "…"


def _cut_encoded(text: str, width: int) -> str:
    """Return what fits in `width` bytes once percent-encoded, as gRPC sends messages."""
    size = sum(
        1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode(errors="replace")
    )
    return _cut(text, width if size <= width else width // 3)
