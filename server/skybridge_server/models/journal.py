"""The journal: one ordered log of events an execution, with dense sequence numbers from 1."""

from __future__ import annotations

import enum
from datetime import datetime

from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.values import value


class OutputStream(enum.IntEnum):
    """Where a function writes to. Values as in the proto, here and below."""

    STDOUT = 1
    STDERR = 2


class GapReason(enum.IntEnum):
    """Why output is missing."""

    OUTPUT_LIMIT = 1
    RUNTIME_UNAVAILABLE = 2
    STORAGE_UNAVAILABLE = 3


@value(frozen=True, slots=True)
class StateChange:
    """The execution entered a state that is not final."""

    state: ExecutionState
    attempt: int = 1


@value(frozen=True, slots=True)
class Output:
    """Bytes that the function wrote: 1 byte to 64 KiB, `offset` counted in their stream."""

    stream: OutputStream
    offset: int
    data: bytes


@value(frozen=True, slots=True)
class Gap:
    """A stretch of output that was not kept; `length` None when nobody can know."""

    stream: OutputStream
    offset: int
    length: int | None
    reason: GapReason


@value(frozen=True, slots=True)
class Result:
    """The execution as it ended: always the last event."""

    execution: Execution


EventBody = StateChange | Output | Gap | Result


@value(frozen=True, slots=True)
class Event:
    """One entry of a journal."""

    sequence: int
    time: datetime
    body: EventBody
