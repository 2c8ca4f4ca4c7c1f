"""What callers are told when a call fails, over the wire."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)
from structlog.testing import capture_logs

from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server import errors
from skybridge_server.api.errors import (
    CODES,
    DOMAIN,
    MAX_DETAILS_BYTES,
    MAX_MESSAGE_BYTES,
    code_of,
    status_of,
)
from skybridge_server.errors import FieldViolation
from tests.api.tiny import Tiny

KINDS: list[type[Message]] = [ErrorInfo, BadRequest, ResourceInfo, QuotaFailure, RetryInfo]


async def fail(tiny: Tiny, error: BaseException, **metadata: str) -> grpc.aio.AioRpcError:
    """Call an RPC that raises, and return what the caller sees."""

    async def info() -> pb.GetSystemInfoResponse:
        raise error

    tiny.script.info = info
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tiny.system.GetSystemInfo(
            pb.GetSystemInfoRequest(),
            metadata=[(k.replace("_", "-"), v) for k, v in metadata.items()],
        )
    return caught.value


def trailer(error: grpc.aio.AioRpcError, key: str) -> Any:
    metadata = error.trailing_metadata()
    assert metadata is not None
    return metadata[key]


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    return status_pb2.Status.FromString(trailer(error, "grpc-status-details-bin"))


def unpacked(status: status_pb2.Status) -> dict[type[Message], Any]:
    found: dict[type[Message], Any] = {}
    for detail in status.details:
        kind = next(kind for kind in KINDS if detail.Is(kind.DESCRIPTOR))
        found[kind] = kind()
        detail.Unpack(found[kind])
    return found


def test_every_error_has_a_code() -> None:
    classes = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.SkybridgeError) and kind is not errors.SkybridgeError
    ]
    assert len(classes) > len(CODES)
    for kind in classes:
        assert code_of(kind.__new__(kind)) is not None, kind


CASES = [
    (
        errors.InvalidArgumentError(FieldViolation("a", "is wrong"), FieldViolation("b.c", "too")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        {BadRequest},
    ),
    (
        errors.NotFoundError("function", "namespaces/n/functions/f"),
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
        {ResourceInfo},
    ),
    (errors.AlreadyExistsError("taken"), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", set()),
    (
        errors.ImageNotFoundError("no such image"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "IMAGE_NOT_FOUND",
        set(),
    ),
    (errors.AbortedError("stale"), grpc.StatusCode.ABORTED, "ETAG_MISMATCH", set()),
    (errors.OutOfRangeError("past"), grpc.StatusCode.OUT_OF_RANGE, "OUT_OF_RANGE", set()),
    (
        errors.ResourceExhaustedError(
            "full", subject="executions", retry_after=timedelta(seconds=3), reason="QUEUE_FULL"
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        {QuotaFailure, RetryInfo},
    ),
    (
        errors.RuntimeUnavailableError("the engine does not answer"),
        grpc.StatusCode.UNAVAILABLE,
        "RUNTIME_UNAVAILABLE",
        {RetryInfo},
    ),
    (
        errors.DeadlineExceededError("late"),
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        set(),
    ),
]


@pytest.mark.parametrize(("error", "code", "reason", "kinds"), CASES)
async def test_each_error_has_its_code_and_details(
    tiny: Tiny,
    error: errors.SkybridgeError,
    code: grpc.StatusCode,
    reason: str,
    kinds: set[type[Message]],
) -> None:
    seen = await fail(tiny, error)
    status = rich_status(seen)
    details = unpacked(status)
    assert (seen.code(), seen.details()) == (code, error.message)
    assert (status.code, status.message) == (code.value[0], error.message)
    assert details.keys() == {ErrorInfo, *kinds}
    info = details[ErrorInfo]
    assert (info.reason, info.domain) == (reason, DOMAIN)
    assert dict(info.metadata) == error.metadata


async def test_details_hold_the_facts(tiny: Tiny) -> None:
    violations = (FieldViolation("a", "is wrong"), FieldViolation("b.c", "too"))
    bad = unpacked(rich_status(await fail(tiny, errors.InvalidArgumentError(*violations))))
    assert [(v.field, v.description) for v in bad[BadRequest].field_violations] == [
        ("a", "is wrong"),
        ("b.c", "too"),
    ]

    missing = unpacked(rich_status(await fail(tiny, errors.NotFoundError("function", "f"))))
    assert missing[ResourceInfo].resource_type == "function"
    assert missing[ResourceInfo].resource_name == "f"

    full = errors.ResourceExhaustedError(
        "full", subject="executions", retry_after=timedelta(milliseconds=1500), reason="QUEUE_FULL"
    )
    quota = unpacked(rich_status(await fail(tiny, full)))
    assert quota[QuotaFailure].violations[0].subject == "executions"
    assert quota[RetryInfo].retry_delay.ToTimedelta() == timedelta(seconds=1.5)

    no_room = await fail(tiny, errors.StorageFullError("disk full"))
    assert no_room.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unpacked(rich_status(no_room))[ErrorInfo].reason == "STORAGE_FULL"
    assert RetryInfo in unpacked(rich_status(no_room))

    down = unpacked(rich_status(await fail(tiny, errors.StorageError("disk broken"))))
    assert down[RetryInfo].retry_delay.ToTimedelta() == timedelta(seconds=1)


@pytest.mark.parametrize("letter", ["x", "é", "%", "\n", "\U0001f680", "\ud800"])
async def test_huge_errors_arrive_cut(tiny: Tiny, letter: str) -> None:
    violations = [FieldViolation(f"f{n}." + letter * 300, letter * 9000) for n in range(1000)]
    error = errors.InvalidArgumentError(*violations)
    error.metadata = {f"{n}{letter * 900}": letter * 900 for n in range(100)}

    seen = await fail(tiny, error)

    assert seen.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (seen.details() or "").endswith("and 975 more")
    assert len(trailer(seen, "grpc-status-details-bin")) <= MAX_DETAILS_BYTES
    assert len(unpacked(rich_status(seen))[BadRequest].field_violations) == 25


def test_messages_are_cut_by_what_they_take_on_the_wire() -> None:
    for letter in ("x", "%", "é"):
        message = status_of(errors.AbortedError(letter * 5000), "").message
        assert len(message.encode()) <= MAX_MESSAGE_BYTES // (1 if letter == "x" else 3)
        assert message.endswith("…")
    assert status_of(errors.AbortedError("x" * MAX_MESSAGE_BYTES), "").message == "x" * 1024


async def test_unknown_errors_are_logged_whole_and_shown_blank(tiny: Tiny) -> None:
    with capture_logs() as logs:
        seen = await fail(tiny, KeyError("a secret"), x_request_id="abc-1")
    assert (seen.code(), seen.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    status = rich_status(seen)
    assert b"secret" not in status.SerializeToString()
    assert unpacked(status)[ErrorInfo].metadata == {"request_id": "abc-1"}
    logged = next(entry for entry in logs if entry["event"] == "call failed")
    assert repr(logged["exc_info"]) == "KeyError('a secret')"


async def test_bare_domain_errors_count_as_unknown(tiny: Tiny) -> None:
    seen = await fail(tiny, errors.SkybridgeError("of no class"))
    assert (seen.code(), seen.details()) == (grpc.StatusCode.INTERNAL, "internal error")
