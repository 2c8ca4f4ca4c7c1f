"""Journals for tests, written short."""

from __future__ import annotations

from skybridge_client.messages import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    Output,
    OutputStream,
    Result,
)

NAME = "namespaces/default/executions/0190a000-0000-7000-8000-000000000001"
STDOUT = OutputStream.OUTPUT_STREAM_STDOUT
STDERR = OutputStream.OUTPUT_STREAM_STDERR
SUCCEEDED = ExecutionState.EXECUTION_STATE_SUCCEEDED


def output(
    sequence: int, data: bytes = b"x", stream: OutputStream.ValueType = STDOUT
) -> ExecutionEvent:
    written = Output(stream=stream, data=data)
    return ExecutionEvent(execution=NAME, sequence=sequence, output=written)


def heartbeat(sequence: int) -> ExecutionEvent:
    event = ExecutionEvent(execution=NAME, sequence=sequence)
    event.heartbeat.SetInParent()
    return event


def result(sequence: int, execution: Execution | None = None) -> ExecutionEvent:
    ended = execution or Execution(name=NAME, state=SUCCEEDED, exit_code=0)
    return ExecutionEvent(execution=NAME, sequence=sequence, result=Result(execution=ended))


def journal(length: int) -> list[ExecutionEvent]:
    """Outputs from 1 on, and the result as the last of `length` events."""
    return [*(output(n) for n in range(1, length)), result(length)]
