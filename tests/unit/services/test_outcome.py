"""What an instance does to us, and what that is to an execution."""

from __future__ import annotations

import pytest

from skybridge_server.errors import InitError, InstanceError, InstanceGoneError, ProtocolError
from skybridge_server.models.executions import ExecutionState, Failure, FailureReason
from skybridge_server.services.outcome import of_error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProtocolError("garbage"), FailureReason.PROTOCOL_ERROR),
        (InstanceGoneError("hung up"), FailureReason.INSTANCE_DIED),
        (InstanceError("anything else"), FailureReason.INSTANCE_DIED),
        (InitError("no such module"), FailureReason.INIT_ERROR),
    ],
)
def test_an_instance_that_is_of_no_use(error: InstanceError, reason: FailureReason) -> None:
    ending = of_error(error)
    assert ending.failure == Failure(reason, error.message)
    assert ending.state is ExecutionState.FAILED
