from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from skybridge_client import errors
from skybridge_client.errors import SkybridgeError, Violation
from skybridge_client.messages import Function
from tests.client.conftest import Call
from tests.client.scripted import Abort, Scripted

Code = grpc.StatusCode

TABLE = [
    (Code.INVALID_ARGUMENT, errors.InvalidArgumentError),
    (Code.OUT_OF_RANGE, errors.OutOfRangeError),
    (Code.NOT_FOUND, errors.NotFoundError),
    (Code.ALREADY_EXISTS, errors.AlreadyExistsError),
    (Code.FAILED_PRECONDITION, errors.FailedPreconditionError),
    (Code.ABORTED, errors.AbortedError),
    (Code.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
    (Code.UNAUTHENTICATED, errors.UnauthenticatedError),
    (Code.PERMISSION_DENIED, errors.PermissionDeniedError),
    (Code.UNAVAILABLE, errors.UnavailableError),
    (Code.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
    (Code.CANCELLED, errors.CallCancelledError),
    (Code.UNIMPLEMENTED, errors.UnimplementedError),
    (Code.DATA_LOSS, errors.DataLossError),
    (Code.INTERNAL, errors.InternalError),
    (Code.UNKNOWN, errors.InternalError),
]


def test_the_table_knows_every_code_and_the_documentation_every_class() -> None:
    assert {code for code, _ in TABLE} == set(Code) - {Code.OK}
    assert dict(TABLE) == errors.CLASSES
    for _, kind in TABLE:
        assert f"{kind.__name__} " in (errors.__doc__ or "")
        assert kind.code.name in (errors.__doc__ or "")


@pytest.mark.parametrize(("code", "kind"), TABLE)
def test_every_code_becomes_its_class_in_both_clients(
    code: Code, kind: type[SkybridgeError], call: Call, server: Scripted
) -> None:
    server.on("DeleteExecution", Abort(code, "no way", reason="SCRIPTED"))
    with pytest.raises(kind, match=r"^no way$") as caught:
        call("delete_execution", "e")
    assert type(caught.value) is kind
    assert caught.value.reason == "SCRIPTED"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_details_are_unpacked(call: Call, server: Scripted) -> None:
    details = (
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", metadata={"limit": "4"}),
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field="a.b", description="is odd"),
                error_details_pb2.BadRequest.FieldViolation(field="c", description="is even"),
            ]
        ),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        error_details_pb2.ResourceInfo(resource_name="namespaces/default/functions/a"),
    )
    server.on("CancelExecution", Abort(Code.RESOURCE_EXHAUSTED, details=details))
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        call("cancel", "e")
    error = caught.value
    assert error.reason == "QUEUE_FULL"
    assert error.metadata == {"limit": "4"}
    assert error.violations == (Violation("a.b", "is odd"), Violation("c", "is even"))
    assert error.retry_delay == 1.5
    assert error.resource == "namespaces/default/functions/a"


@pytest.mark.parametrize("raw", [None, b"\xff\xff\xff"])
def test_an_error_without_readable_details_is_bare(
    raw: bytes | None, call: Call, server: Scripted
) -> None:
    server.on("CancelExecution", Abort(Code.NOT_FOUND, "gone", raw=raw))
    with pytest.raises(errors.NotFoundError) as caught:
        call("cancel", "e")
    assert (caught.value.reason, caught.value.metadata) == ("", {})
    assert (caught.value.violations, caught.value.retry_delay) == ((), None)


def test_details_of_other_kinds_are_passed_over(call: Call, server: Scripted) -> None:
    server.on("CancelExecution", Abort(Code.NOT_FOUND, details=(Function(name="x"),)))
    with pytest.raises(errors.NotFoundError) as caught:
        call("cancel", "e")
    assert caught.value.reason == ""


def test_an_error_survives_pickling() -> None:
    error = errors.NotFoundError("gone", reason="R", retry_delay=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.NotFoundError
    assert (str(copy), copy.reason, copy.retry_delay) == ("gone", "R", 2.0)
