"""What can go wrong with a call, in the words of the API.

    SkybridgeError
     +- InvalidArgumentError     INVALID_ARGUMENT     `violations` names every wrong field
     |   +- OutOfRangeError      OUT_OF_RANGE         a position is past the end
     +- NotFoundError            NOT_FOUND            `resource` names what is missing
     +- AlreadyExistsError       ALREADY_EXISTS       the name, or the request id, is taken
     +- FailedPreconditionError  FAILED_PRECONDITION  the message names the way out
     +- AbortedError             ABORTED              somebody else wrote in between: read again
     +- ResourceExhaustedError   RESOURCE_EXHAUSTED   come back after `retry_delay`
     +- UnauthenticatedError     UNAUTHENTICATED      who are you?
     +- PermissionDeniedError    PERMISSION_DENIED    not allowed
     +- UnavailableError         UNAVAILABLE          server, engine or registry do not answer
     +- DeadlineExceededError    DEADLINE_EXCEEDED    `timeout` passed before the answer
     +- CallCancelledError       CANCELLED            the call was cancelled
     +- UnimplementedError       UNIMPLEMENTED        the server is older than this client
     +- DataLossError            DATA_LOSS            events are missing and do not come back
     +- InternalError            INTERNAL, UNKNOWN    a defect of the server

A function that fails raises nothing: its failure is a result, `Execution.failure`.
The error of grpc stays reachable as `__cause__`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_STATUS_KEY = "grpc-status-details-bin"

_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True)
class Violation:
    """One wrong field of a request."""

    field: str
    """Path of the field, such as `function.spec.resources.memory_bytes`."""
    description: str
    """What is wrong with it."""


class SkybridgeError(Exception):
    """A call that could not be carried out."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    """The gRPC code that the class stands for."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_delay: float | None = None,
        resource: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        """Stable name of the cause for programs, such as `FUNCTION_NOT_FOUND`; empty when
        the error was made on the way and not by a Skybridge server."""
        self.metadata = dict(metadata or {})
        """Facts that belong to `reason`."""
        self.violations = violations
        """The wrong fields, all of them."""
        self.retry_delay = retry_delay
        """Seconds after which a repeat may succeed; None when the server does not say."""
        self.resource = resource
        """Name of the resource that the error is about; may be empty."""


class InvalidArgumentError(SkybridgeError):
    """The request is wrong, whatever the state of the server."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class OutOfRangeError(InvalidArgumentError):
    """A position is past the end."""

    code = grpc.StatusCode.OUT_OF_RANGE


class NotFoundError(SkybridgeError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(SkybridgeError):
    """The name is taken, or the request id was used for another request."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(SkybridgeError):
    """Something must be done first; the message says what."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class AbortedError(SkybridgeError):
    """Somebody else was faster: read again, then repeat."""

    code = grpc.StatusCode.ABORTED


class ResourceExhaustedError(SkybridgeError):
    """A queue or a quota is full: come back after `retry_delay`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnauthenticatedError(SkybridgeError):
    """The server does not know who calls."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(SkybridgeError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class UnavailableError(SkybridgeError):
    """The server, its engine or a registry does not answer."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(SkybridgeError):
    """The timeout of the call passed before its answer came."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(SkybridgeError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


class UnimplementedError(SkybridgeError):
    """The server does not know this call: it is older than the client."""

    code = grpc.StatusCode.UNIMPLEMENTED


class DataLossError(SkybridgeError):
    """Events of a journal are missing, and asking again did not bring them."""

    code = grpc.StatusCode.DATA_LOSS


class InternalError(SkybridgeError):
    """A defect of the server."""

    code = grpc.StatusCode.INTERNAL


_KINDS: tuple[type[SkybridgeError], ...] = (
    InvalidArgumentError,
    OutOfRangeError,
    NotFoundError,
    AlreadyExistsError,
    FailedPreconditionError,
    AbortedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    PermissionDeniedError,
    UnavailableError,
    DeadlineExceededError,
    CallCancelledError,
    UnimplementedError,
    DataLossError,
    InternalError,
)

CLASSES = {kind.code: kind for kind in _KINDS} | {grpc.StatusCode.UNKNOWN: InternalError}
"""The error table: the class of each code that a call can end with."""

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.RpcError) -> SkybridgeError:
    """Turns an error of grpc into ours, with the details that the server sent along."""
    return _error(error.code(), error.details() or error.code().name, _status(error))


def from_status(status: status_pb2.Status) -> SkybridgeError:
    """Turns an error that came as a message into ours."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message or code.name, status)


def _error(code: grpc.StatusCode, message: str, status: status_pb2.Status) -> SkybridgeError:
    info = _detail(status, error_details_pb2.ErrorInfo)
    retry = _detail(status, error_details_pb2.RetryInfo)
    return CLASSES.get(code, SkybridgeError)(
        message,
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(
            Violation(each.field, each.description)
            for each in _detail(status, error_details_pb2.BadRequest).field_violations
        ),
        retry_delay=retry.retry_delay.ToNanoseconds() / 1e9 if retry.ByteSize() else None,
        resource=_detail(status, error_details_pb2.ResourceInfo).resource_name,
    )


def _status(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status in the trailers; an empty one when there is none that reads."""
    status = status_pb2.Status()
    trailers: Iterable[tuple[str, str | bytes]] = cast("Any", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == _STATUS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return status_pb2.Status()
    return status


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """The first detail of a kind; an empty message when there is none."""
    detail = kind()
    any(packed.Unpack(detail) for packed in status.details)
    return detail
