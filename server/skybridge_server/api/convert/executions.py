"""Executions and their journals."""

from __future__ import annotations

from collections.abc import Iterable

from skybridge.faas.v1 import execution_pb2 as pb
from skybridge.faas.v1 import execution_service_pb2 as service_pb
from skybridge_server.api.convert.values import (
    optional_duration_to_proto,
    optional_timestamp_to_proto,
    timestamp_to_proto,
)
from skybridge_server.models.destinations import Delivery
from skybridge_server.models.executions import Attempt, Execution, Failure, Timings, Usage
from skybridge_server.models.journal import Event, Gap, Output, StateChange
from skybridge_server.models.names import ExecutionName, InstanceName, RevisionName
from skybridge_server.services.requests import ExecutionOutput, Heartbeat, InputAck, LogEntry


def execution_to_proto(
    execution: Execution,
    output: ExecutionOutput | None = None,
    attempts: Iterable[Attempt] = (),
) -> pb.Execution:
    """Return an execution; `output` and `attempts` are left out of lists and events."""
    message = pb.Execution(
        name=str(execution.name),
        function=str(execution.function),
        revision=str(RevisionName(execution.function, execution.revision)),
        state=pb.ExecutionState.ValueType(execution.state),
        failure=_failure_to_proto(execution.failure),
        exit_code=execution.exit_code,
        stdout_bytes=execution.stdout_bytes,
        stderr_bytes=execution.stderr_bytes,
        last_sequence=execution.last_sequence,
        attempt=execution.attempt,
        cold_start=execution.cold_start,
        labels=execution.labels,
        timings=_timings_to_proto(execution.timings),
        usage=_usage_to_proto(execution.usage),
        create_time=timestamp_to_proto(execution.create_time),
        start_time=optional_timestamp_to_proto(execution.start_time),
        end_time=optional_timestamp_to_proto(execution.end_time),
        requested_start_time=optional_timestamp_to_proto(execution.due_time),
        not_before=optional_timestamp_to_proto(execution.not_before),
        attempts=map(_attempt_to_proto, attempts),
    )
    if execution.instance:
        _fill_warm(message, execution)
    if output is not None:
        message.output = output.output
        message.output_truncated = output.truncated
        message.log_tail = output.log_tail
    return message


def _attempt_to_proto(attempt: Attempt) -> pb.Attempt:
    return pb.Attempt(
        number=attempt.number,
        failure=_failure_to_proto(attempt.failure),
        exit_code=attempt.exit_code,
        stdout_bytes=attempt.stdout_bytes,
        stderr_bytes=attempt.stderr_bytes,
        last_sequence=attempt.last_sequence,
        cold_start=attempt.cold_start,
        timings=_timings_to_proto(attempt.timings),
        usage=_usage_to_proto(attempt.usage),
        start_time=optional_timestamp_to_proto(attempt.start_time),
        end_time=timestamp_to_proto(attempt.end_time),
    )


def _fill_warm(message: pb.Execution, execution: Execution) -> None:
    """Fill in what only executions on an instance have."""
    message.instance = str(InstanceName(execution.name.namespace, execution.instance))
    message.content_type = execution.answered.content_type
    message.headers.update(execution.answered.headers)
    message.http_status = execution.answered.status


def delivery_to_proto(delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        destination=delivery.destination.function or delivery.destination.url,
        state=pb.DeliveryState.ValueType(delivery.state),
        attempts=delivery.attempts,
        message=delivery.message,
        execution=str(delivery.told or ""),
        next_time=optional_timestamp_to_proto(delivery.next_time),
        end_time=optional_timestamp_to_proto(delivery.end_time),
    )


def _failure_to_proto(failure: Failure | None) -> pb.Failure | None:
    if failure is None:
        return None
    return pb.Failure(
        reason=pb.FailureReason.ValueType(failure.reason),
        message=failure.message,
        signal=failure.signal,
    )


def _timings_to_proto(timings: Timings) -> pb.Timings:
    return pb.Timings(
        queue=optional_duration_to_proto(timings.queue),
        start=optional_duration_to_proto(timings.start),
        run=optional_duration_to_proto(timings.run),
        total=optional_duration_to_proto(timings.total),
        init=optional_duration_to_proto(timings.init),
    )


def _usage_to_proto(usage: Usage) -> pb.Usage:
    return pb.Usage(
        cpu=optional_duration_to_proto(usage.cpu),
        peak_memory_bytes=usage.peak_memory_bytes,
        oom_killed=usage.oom_killed,
    )


def event_to_proto(name: ExecutionName, item: Event | Heartbeat | InputAck) -> pb.ExecutionEvent:
    """Return one message of a stream of events."""
    event = pb.ExecutionEvent(
        execution=str(name), sequence=item.sequence, time=timestamp_to_proto(item.time)
    )
    if isinstance(item, Heartbeat):
        event.heartbeat.SetInParent()
    elif isinstance(item, InputAck):
        event.input_ack.committed_bytes = item.committed_bytes
        event.input_ack.closed = item.closed
        event.input_ack.SetInParent()
    elif isinstance(item.body, Output):
        _fill_output(event.output, item.body)
    elif isinstance(item.body, StateChange):
        event.state_change.state = pb.ExecutionState.ValueType(item.body.state)
        event.state_change.attempt = item.body.attempt
    elif isinstance(item.body, Gap):
        _fill_gap(event.gap, item.body)
    else:
        event.result.execution.CopyFrom(execution_to_proto(item.body.execution))
    return event


def log_entry_to_proto(entry: LogEntry) -> service_pb.ReadLogsResponse:
    message = service_pb.ReadLogsResponse(
        execution=str(entry.execution), time=timestamp_to_proto(entry.time)
    )
    if isinstance(entry.body, Output):
        _fill_output(message.output, entry.body)
    else:
        _fill_gap(message.gap, entry.body)
    return message


# Filled in place: a message that is built apart and then set would have its bytes copied again.


def _fill_output(message: pb.Output, output: Output) -> None:
    message.stream = pb.OutputStream.ValueType(output.stream)
    message.offset = output.offset
    message.data = output.data


def _fill_gap(message: pb.Gap, gap: Gap) -> None:
    message.stream = pb.OutputStream.ValueType(gap.stream)
    message.offset = gap.offset
    message.reason = pb.GapReason.ValueType(gap.reason)
    if gap.length is not None:
        message.length = gap.length
