"""Executions and their journals."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from skybridge.faas.v1 import execution_pb2 as pb
from skybridge.faas.v1 import execution_service_pb2 as service_pb
from skybridge_server.api.convert.values import (
    fill_duration,
    fill_timestamp,
    optional_timestamp_to_proto,
    timestamp_to_proto,
)
from skybridge_server.models.destinations import Delivery
from skybridge_server.models.executions import Attempt, Execution, Failure, Timings, Usage
from skybridge_server.models.journal import Event, Gap, Output, StateChange
from skybridge_server.models.names import ExecutionName, InstanceName
from skybridge_server.services.requests import ExecutionOutput, Heartbeat, InputAck, LogEntry


def execution_to_proto(
    execution: Execution,
    output: ExecutionOutput | None = None,
    attempts: Iterable[Attempt] = (),
) -> pb.Execution:
    """Return an execution; `output` and `attempts` are left out of lists and events."""
    message = pb.Execution()
    fill_execution(message, execution, output, attempts)
    return message


def fill_execution(
    message: pb.Execution,
    execution: Execution,
    output: ExecutionOutput | None = None,
    attempts: Iterable[Attempt] = (),
) -> None:
    function = message.function = str(execution.function)
    message.name = str(execution.name)
    message.revision = f"{function}/revisions/{execution.revision}"
    message.state = pb.ExecutionState.ValueType(execution.state)
    message.stdout_bytes = execution.stdout_bytes
    message.stderr_bytes = execution.stderr_bytes
    message.last_sequence = execution.last_sequence
    message.attempt = execution.attempt
    message.cold_start = execution.cold_start
    if execution.labels:
        message.labels.update(execution.labels)
    _fill_end(message, execution)
    _fill_timings(message.timings, execution.timings)
    _fill_usage(message.usage, execution.usage)
    _fill_times(message, execution)
    for attempt in attempts:
        _fill_attempt(message.attempts.add(), attempt)
    if execution.instance:
        _fill_warm(message, execution)
    if output is not None:
        message.output = output.output
        message.output_truncated = output.truncated
        message.log_tail = output.log_tail


# Filled in place, here and below: a message that is built apart and then set is copied, which costs
# more than all else.


def _fill_attempt(message: pb.Attempt, attempt: Attempt) -> None:
    message.number = attempt.number
    _fill_end(message, attempt)
    message.stdout_bytes = attempt.stdout_bytes
    message.stderr_bytes = attempt.stderr_bytes
    message.last_sequence = attempt.last_sequence
    message.cold_start = attempt.cold_start
    _fill_timings(message.timings, attempt.timings)
    _fill_usage(message.usage, attempt.usage)
    if attempt.start_time is not None:
        fill_timestamp(message.start_time, attempt.start_time)
    fill_timestamp(message.end_time, attempt.end_time)


def _fill_end(message: pb.Execution | pb.Attempt, ended: Execution | Attempt) -> None:
    if ended.exit_code is not None:
        message.exit_code = ended.exit_code
    if ended.failure is not None:
        _fill_failure(message.failure, ended.failure)


def _fill_failure(message: pb.Failure, failure: Failure) -> None:
    message.reason = pb.FailureReason.ValueType(failure.reason)
    message.message = failure.message
    message.signal = failure.signal


def _fill_times(message: pb.Execution, execution: Execution) -> None:
    fill_timestamp(message.create_time, execution.create_time)
    if execution.start_time is not None:
        fill_timestamp(message.start_time, execution.start_time)
    if execution.end_time is not None:
        fill_timestamp(message.end_time, execution.end_time)
    if execution.due_time is not None:
        fill_timestamp(message.requested_start_time, execution.due_time)
    if execution.not_before is not None:
        fill_timestamp(message.not_before, execution.not_before)


def _fill_timings(message: pb.Timings, timings: Timings) -> None:
    message.SetInParent()
    if timings.queue is not None:
        fill_duration(message.queue, timings.queue)
    if timings.start is not None:
        fill_duration(message.start, timings.start)
    if timings.run is not None:
        fill_duration(message.run, timings.run)
    if timings.total is not None:
        fill_duration(message.total, timings.total)
    if timings.init is not None:
        fill_duration(message.init, timings.init)


def _fill_usage(message: pb.Usage, usage: Usage) -> None:
    message.SetInParent()
    if usage.cpu is not None:
        fill_duration(message.cpu, usage.cpu)
    if usage.peak_memory_bytes is not None:
        message.peak_memory_bytes = usage.peak_memory_bytes
    message.oom_killed = usage.oom_killed


def _fill_warm(message: pb.Execution, execution: Execution) -> None:
    """Fill in what only executions on an instance have."""
    answered = execution.answered
    message.instance = str(InstanceName(execution.name.namespace, execution.instance))
    message.content_type = answered.content_type
    message.http_status = answered.status
    if answered.headers:
        message.headers.update(answered.headers)


def delivery_to_proto(delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        destination=delivery.destination.function or _host(delivery.destination.url),
        state=pb.DeliveryState.ValueType(delivery.state),
        attempts=delivery.attempts,
        message=delivery.message,
        execution=str(delivery.told or ""),
        next_time=optional_timestamp_to_proto(delivery.next_time),
        end_time=optional_timestamp_to_proto(delivery.end_time),
    )


def _host(url: str) -> str:
    """Return an URL as far as it is no secret: who posts to it needs no more to do so."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


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
