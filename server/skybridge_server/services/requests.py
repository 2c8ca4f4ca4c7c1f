"""What callers ask of the services, checked and converted by `api/`, and special answers."""

from __future__ import annotations

import enum
from dataclasses import field
from datetime import datetime, timedelta

from skybridge_server.models.executions import NO_ENVELOPE, Envelope
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.journal import Gap, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.values import value


@value(frozen=True, slots=True)
class RequestKey:
    """Makes a mutation idempotent: the rpc, its request id, and a hash of what was asked."""

    method: str
    request_id: str
    fingerprint: str


@value(frozen=True, slots=True)
class FunctionDraft:
    """What a user may write of a function."""

    spec: FunctionSpec
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)


class DeploymentPhase(enum.IntEnum):
    """Phases of a deployment. Values as in the proto."""

    RESOLVING = 1
    PULLING = 2
    CHECKING = 3
    ACTIVATING = 4


@value(frozen=True, slots=True)
class ExecutionRequest:
    """An execution to start."""

    function: FunctionName
    input: bytes = b""
    timeout: timedelta | None = None
    labels: dict[str, str] = field(default_factory=dict)
    traceparent: str = ""
    key: RequestKey | None = None
    interactive: bool = False
    background: bool = False
    """Whether no caller waits for it, so that the server tries again what fails."""
    start_time: datetime | None = None
    """When to start it; now if that has passed."""
    envelope: Envelope = NO_ENVELOPE
    """What goes with the input."""


@value(frozen=True, slots=True)
class LogQuery:
    """Which output to read. `tail_lines` 0 means all; `stream` None means both.

    `attempt` 0 means the last one of an execution, and all of a function's.
    """

    follow: bool = False
    tail_lines: int = 0
    since: datetime | None = None
    stream: OutputStream | None = None
    attempt: int = 0


@value(frozen=True, slots=True)
class Heartbeat:
    """A sign of life on a stream that has been silent; `sequence` is that of the last event."""

    sequence: int
    time: datetime


@value(frozen=True, slots=True)
class InputAck:
    """How much of stdin the container has taken, and whether stdin is closed."""

    committed_bytes: int
    closed: bool
    sequence: int
    time: datetime


@value(frozen=True, slots=True)
class ExecutionOutput:
    """What an execution that has ended wrote: the start of stdout and the end of stderr."""

    output: bytes
    truncated: bool
    """Whether `output` is less than all of stdout."""
    log_tail: bytes


@value(frozen=True, slots=True)
class LogEntry:
    """A piece of what an execution wrote, or a stretch of it that was not kept."""

    execution: ExecutionName
    time: datetime
    body: Output | Gap
