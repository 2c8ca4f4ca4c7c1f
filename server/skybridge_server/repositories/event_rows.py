"""Events of journals as rows of their table."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

from skybridge_server.errors import StorageError
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.journal import (
    Event,
    EventBody,
    Gap,
    GapReason,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.repositories.codec import from_time, to_time
from skybridge_server.repositories.tables import EventRow as Row


class Kind(enum.IntEnum):
    """Which body an event has."""

    STATE = 1
    OUTPUT = 2
    GAP = 3
    RESULT = 4


_OUTPUT = int(Kind.OUTPUT)
QUEUED, RUNNING, FIRST_OUTPUT = 1, 2, 3
"""Sequences of an execution that ran straight to its end."""

COLUMNS = (
    Row.sequence,
    Row.time,
    Row.kind,
    Row.code,
    Row.stream,
    Row.offset,
    Row.length,
    Row.data,
)


def values_of(event: Event) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    return (event.sequence, from_time(event.time), *_body_values(event.body))


def values_of_output(sequence: int, time: int, output: Output) -> tuple[Any, ...]:
    """Return the values of COLUMNS of an event that is about to have this body."""
    data = output.data
    stream = int(output.stream)  # what is no plain number costs more to bind
    return (sequence, time, _OUTPUT, None, stream, output.offset, len(data), data)


def size_of(values: Sequence[Any]) -> int:
    """Return how many bytes of data the values of COLUMNS have."""
    return len(values[-1] or b"")


def _body_values(body: EventBody) -> tuple[Any, ...]:
    match body:
        case StateChange(state, attempt):
            return (Kind.STATE, state, None, None, attempt if attempt > 1 else None, None)
        case Output(stream, offset, data):
            return (Kind.OUTPUT, None, stream, offset, len(data), data)
        case Gap(stream, offset, length, reason):
            return (Kind.GAP, reason, stream, offset, length, None)
        case Result():
            return (Kind.RESULT, None, None, None, None, None)


def of_straight(execution: Execution, sequence: int) -> Event:
    """Return an event that follows from an execution which ran straight to its end."""
    if sequence == QUEUED:
        return Event(sequence, execution.create_time, StateChange(ExecutionState.QUEUED))
    if sequence == execution.last_sequence and execution.end_time is not None:
        return Event(sequence, execution.end_time, Result(execution))
    if sequence == RUNNING and execution.start_time is not None:
        return Event(sequence, execution.start_time, StateChange(ExecutionState.RUNNING))
    raise StorageError(f"the journal of execution '{execution.name}' lacks event {sequence}")


def from_values(values: Sequence[Any], execution: Callable[[], Execution]) -> Event:
    """Return the event that the values of COLUMNS describe; `execution` gives that of a result."""
    sequence, time, kind, code, stream, offset, length, data = values
    body: EventBody
    match Kind(kind):
        case Kind.STATE:
            body = StateChange(ExecutionState(code), length or 1)
        case Kind.OUTPUT:
            body = Output(OutputStream(stream), offset, bytes(data))
        case Kind.GAP:
            body = Gap(OutputStream(stream), offset, length, GapReason(code))
        case Kind.RESULT:
            body = Result(execution())
    return Event(sequence, to_time(time), body)
