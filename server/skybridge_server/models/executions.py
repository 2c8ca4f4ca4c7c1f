"""Executions: their states, the one table of transitions, and how they fail."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta

from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName
from skybridge_server.models.values import value


class ExecutionState(enum.IntEnum):
    """Where an execution stands. Values as in the proto, here and below."""

    QUEUED = 1
    STARTING = 2
    RUNNING = 3
    CANCELLING = 4
    SUCCEEDED = 5
    FAILED = 6
    TIMED_OUT = 7
    CANCELLED = 8

    @property
    def final(self) -> bool:
        return self >= ExecutionState.SUCCEEDED


_S = ExecutionState
_ENDS = frozenset({_S.SUCCEEDED, _S.FAILED, _S.TIMED_OUT, _S.CANCELLED})

# An attempt that another one follows ends in QUEUED.
TRANSITIONS: dict[ExecutionState, frozenset[ExecutionState]] = {
    _S.QUEUED: frozenset(
        {_S.STARTING, _S.RUNNING, _S.FAILED, _S.TIMED_OUT, _S.CANCELLED, _S.QUEUED}
    ),
    _S.STARTING: frozenset({_S.RUNNING, _S.CANCELLING, _S.QUEUED}) | _ENDS,
    _S.RUNNING: frozenset({_S.CANCELLING, _S.QUEUED}) | _ENDS,
    _S.CANCELLING: _ENDS | {_S.QUEUED},
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.TIMED_OUT: frozenset(),
    _S.CANCELLED: frozenset(),
}


class FailureReason(enum.IntEnum):
    """Why an execution did not succeed."""

    EXIT_CODE = 1
    SIGNAL = 2
    OUT_OF_MEMORY = 3
    QUEUE_TIMEOUT = 4
    START_TIMEOUT = 5
    EXECUTION_TIMEOUT = 6
    DEADLINE = 7
    CANCELLED = 8
    DISCONNECTED = 9
    OUTPUT_LIMIT = 10
    IMAGE_UNAVAILABLE = 11
    ENTRY_POINT = 12
    START_FAILED = 13
    RUNTIME_UNAVAILABLE = 14
    CONTAINER_REMOVED = 15
    LOST = 16
    INTERNAL = 17
    FUNCTION_ERROR = 18
    PROTOCOL_ERROR = 19
    INSTANCE_DIED = 20
    INIT_ERROR = 21

    @property
    def state(self) -> ExecutionState:
        """Return the final state of an execution that failed so."""
        return _STATE_OF.get(self, ExecutionState.FAILED)


_STATE_OF = {
    FailureReason.QUEUE_TIMEOUT: ExecutionState.TIMED_OUT,
    FailureReason.START_TIMEOUT: ExecutionState.TIMED_OUT,
    FailureReason.EXECUTION_TIMEOUT: ExecutionState.TIMED_OUT,
    FailureReason.DEADLINE: ExecutionState.TIMED_OUT,
    FailureReason.CANCELLED: ExecutionState.CANCELLED,
    FailureReason.DISCONNECTED: ExecutionState.CANCELLED,
}


@value(frozen=True, slots=True)
class Failure:
    """Why an execution did not succeed, for programs and for people."""

    reason: FailureReason
    message: str
    signal: int = 0


@value(frozen=True, slots=True)
class Timings:
    """How long the phases took; None for a phase that was not reached."""

    queue: timedelta | None = None
    start: timedelta | None = None
    run: timedelta | None = None
    total: timedelta | None = None
    init: timedelta | None = None
    """Of the instance, for a cold start."""


@value(frozen=True, slots=True)
class Usage:
    """What an execution used; None where the host does not show it."""

    cpu: timedelta | None = None
    peak_memory_bytes: int | None = None
    oom_killed: bool = False


@value(frozen=True, slots=True)
class Lease:
    """The right to run an execution: only who knows its current epoch may write its journal.

    It is taken with the epoch after the one that was read, so that of several only one gets it.
    """

    epoch: int = 0
    """How often it was taken; 0: never."""
    owner: str = ""
    """Id of the server that runs the execution; '': none does."""
    expire_time: datetime | None = None
    """When others may take it; later than the end of whatever time the execution may take."""


@value(frozen=True, slots=True)
class Envelope:
    """What goes with a payload: its media type, '' where none is named, headers, and a status."""

    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    """HTTP status of an answer; 0 where there is none."""


NO_ENVELOPE = Envelope()


@value(frozen=True, slots=True)
class Execution:
    """One run of a function."""

    name: ExecutionName
    function: FunctionName
    function_uid: str
    revision: int
    create_time: datetime
    state: ExecutionState = ExecutionState.QUEUED
    failure: Failure | None = None
    timeout: timedelta | None = None
    """Asked for by the caller; None: the function's."""
    interactive: bool = False
    """Whether callers write its stdin while it runs; nothing of it is stored."""
    background: bool = False
    """Whether no caller waits for it, so that the server tries again what fails."""
    due_time: datetime | None = None
    """When it was to start, if that was after its acceptance."""
    not_before: datetime | None = None
    """Until when it waits in the store, for `due_time` or its next attempt; None: no longer.

    It stays until somebody takes it out of the queue: since when it waits for a place.
    """
    position: int | None = None
    """Its number in the queue of its function, where the lower comes first; None: not there yet."""
    traceparent: str = ""
    exit_code: int | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    last_sequence: int = 0
    attempt: int = 1
    cold_start: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    timings: Timings = Timings()
    usage: Usage = Usage()
    start_time: datetime | None = None
    end_time: datetime | None = None
    lease: Lease = Lease()
    input_given: bool = False
    """Whether its process has been handed all of its input; only then can others go on with it."""
    instance: str = ""
    """Id of the instance that it ran on; '' with STDIO."""
    asked: Envelope = NO_ENVELOPE
    """What goes with the input."""
    answered: Envelope = NO_ENVELOPE
    """What goes with the output."""

    @property
    def ready_time(self) -> datetime:
        """When it could start for the first time: its timings count from here."""
        return self.due_time or self.create_time


@value(frozen=True, slots=True)
class Queued:
    """Executions of one revision that wait for a place, and that no server has taken yet."""

    function_uid: str
    revision: RevisionName
    count: int
    last: int
    """Position of the last of them."""


@value(frozen=True, slots=True)
class Attempt:
    """An attempt of an execution, as it ended; another one followed it."""

    number: int
    failure: Failure
    exit_code: int | None
    stdout_bytes: int
    stderr_bytes: int
    last_sequence: int
    """Sequence of its last event in the execution's journal."""
    cold_start: bool
    timings: Timings
    usage: Usage
    start_time: datetime | None
    end_time: datetime
