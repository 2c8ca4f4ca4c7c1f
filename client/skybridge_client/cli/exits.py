"""The exit codes of the command, and the one line on stderr that goes with them."""

from __future__ import annotations

import sys

from skybridge_client.errors import (
    DataLossError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SkybridgeError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from skybridge_client.messages import Execution, ExecutionState, FailureReason

REFUSED, USAGE, UNAVAILABLE, DEFECT, LATER, FORBIDDEN = 1, 2, 69, 70, 75, 77
TIMED_OUT, NO_VERDICT, NO_COMMAND, INTERRUPTED = 124, 125, 127, 130

HELP = (
    "Exit codes: 0 done; 1 refused (not found, exists already, not deployed, ...); 2 wrong "
    "arguments; 69 server or engine unavailable; 70 a defect of the server; 75 a queue is full, "
    "try later; 77 not allowed; 124 a timeout passed; 130 interrupted.\n\n"
    "`run`, `executions watch` and `executions wait` end with the exit code of the function; "
    "128+N if signal N ended it (137: out of memory); 124 if it timed out; 130 if it was "
    "cancelled; 127 if the image has no such command; 125 if it failed for another reason, told "
    "on stderr."
)

_CODES: tuple[tuple[type[SkybridgeError], int], ...] = (
    (InvalidArgumentError, USAGE),
    (UnavailableError, UNAVAILABLE),
    (InternalError, DEFECT),
    (UnimplementedError, DEFECT),
    (DataLossError, DEFECT),
    (ResourceExhaustedError, LATER),
    (UnauthenticatedError, FORBIDDEN),
    (PermissionDeniedError, FORBIDDEN),
    (DeadlineExceededError, TIMED_OUT),
)

_VERDICTS = {
    FailureReason.FAILURE_REASON_OUT_OF_MEMORY: 137,
    FailureReason.FAILURE_REASON_ENTRY_POINT: NO_COMMAND,
}


def of_error(error: SkybridgeError) -> int:
    """The exit code of a call that failed."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), REFUSED)


def of_execution(execution: Execution) -> int:
    """The exit code of an execution that has ended."""
    failure = execution.failure
    if execution.state == ExecutionState.EXECUTION_STATE_SUCCEEDED:
        return 0
    if execution.state == ExecutionState.EXECUTION_STATE_TIMED_OUT:
        return TIMED_OUT
    if execution.state == ExecutionState.EXECUTION_STATE_CANCELLED:
        return INTERRUPTED
    if failure.reason == FailureReason.FAILURE_REASON_EXIT_CODE:
        return execution.exit_code
    if failure.reason == FailureReason.FAILURE_REASON_SIGNAL:
        return 128 + failure.signal
    return _VERDICTS.get(failure.reason, NO_VERDICT)


def explain(error: SkybridgeError, address: str) -> str:
    """What happened and the way out, in one line."""
    message = " ".join(str(error).split())
    if isinstance(error, UnavailableError) and not error.reason:
        return (
            f"no server answers at {address}: start one with `skybridge-server serve`, or name "
            f"another with --address or SKYBRIDGE_ADDRESS ({message})"
        )
    if isinstance(error, DeadlineExceededError):
        return f"{message} (--timeout gives more time)"
    if error.retry_delay:
        return f"{message} (try again in {error.retry_delay:g} s)"
    return message


def say(line: str) -> None:
    """Writes a line of the command's own to stderr."""
    print(f"skybridge: {line}", file=sys.stderr, flush=True)
