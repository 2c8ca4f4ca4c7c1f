"""Executions as rows of their table."""

from __future__ import annotations

from typing import Any

from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Lease,
    Timings,
    Usage,
)
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.repositories.codec import (
    dumps_envelope,
    dumps_labels,
    from_optional_duration,
    from_optional_time,
    from_time,
    loads_envelope,
    loads_labels,
    optional,
    to_duration,
    to_time,
)
from skybridge_server.repositories.tables import ExecutionRow as Row

FIXED = (
    Row.namespace,
    Row.execution,
    Row.function,
    Row.function_uid,
    Row.revision,
    Row.create_time,
    Row.timeout,
    Row.interactive,
    Row.traceparent,
    Row.labels,
    Row.background,
    Row.due_time,
    Row.asked,
)
"""What never changes; indexes stand on these, so that an update leaves them alone."""

WAITING = (Row.not_before, Row.position)
"""What changes only where executions wait: an update of others leaves it alone."""

CHANGING = (
    Row.state,
    Row.failure_reason,
    Row.failure_message,
    Row.failure_signal,
    Row.exit_code,
    Row.stdout_bytes,
    Row.stderr_bytes,
    Row.last_sequence,
    Row.attempt,
    Row.cold_start,
    Row.queue_time,
    Row.startup_time,
    Row.run_time,
    Row.total_time,
    Row.cpu_time,
    Row.peak_memory_bytes,
    Row.oom_killed,
    Row.start_time,
    Row.end_time,
    Row.lease_epoch,
    Row.lease_owner,
    Row.lease_expire_time,
    Row.input_given,
    Row.instance,
    Row.init_time,
    Row.answered,
)

COLUMNS = FIXED + WAITING + CHANGING


# Numbers where the domain has truth values and enums: others cost more to bind, see `forms`.


def fixed_values(execution: Execution) -> tuple[Any, ...]:
    """Return the values of FIXED."""
    return (
        execution.name.namespace,
        execution.name.execution,
        execution.function.function,
        execution.function_uid,
        execution.revision,
        from_time(execution.create_time),
        from_optional_duration(execution.timeout),
        int(execution.interactive),
        execution.traceparent,
        dumps_labels(execution.labels),
        int(execution.background),
        from_optional_time(execution.due_time),
        dumps_envelope(execution.asked),
    )


def waiting_values(execution: Execution) -> tuple[Any, ...]:
    """Return the values of WAITING."""
    return (from_optional_time(execution.not_before), execution.position)


def changing_values(execution: Execution) -> tuple[Any, ...]:
    """Return the values of CHANGING."""
    failure, timings, usage = execution.failure, execution.timings, execution.usage
    lease = execution.lease
    return (
        int(execution.state),
        failure and failure.reason,
        failure and failure.message,
        failure and failure.signal,
        execution.exit_code,
        execution.stdout_bytes,
        execution.stderr_bytes,
        execution.last_sequence,
        execution.attempt,
        int(execution.cold_start),
        from_optional_duration(timings.queue),
        from_optional_duration(timings.start),
        from_optional_duration(timings.run),
        from_optional_duration(timings.total),
        from_optional_duration(usage.cpu),
        usage.peak_memory_bytes,
        int(usage.oom_killed),
        from_optional_time(execution.start_time),
        from_optional_time(execution.end_time),
        lease.epoch,
        lease.owner,
        from_optional_time(lease.expire_time),
        int(execution.input_given),
        execution.instance,
        from_optional_duration(timings.init),
        dumps_envelope(execution.answered),
    )


def values_of(execution: Execution) -> tuple[Any, ...]:
    """Return the values of COLUMNS."""
    return fixed_values(execution) + waiting_values(execution) + changing_values(execution)


def from_values(values: tuple[Any, ...]) -> Execution:
    """Return the execution that the values of COLUMNS describe."""
    (namespace, execution, function, function_uid, revision, create_time, timeout) = values[:7]
    (interactive, traceparent, labels, background, due_time, asked) = values[7:13]
    (not_before, position) = values[13:15]
    (state, reason, message, signal, exit_code) = values[15:20]
    (stdout_bytes, stderr_bytes, last_sequence, attempt, cold_start) = values[20:25]
    (queue, start, run, total, cpu, peak_memory, oom_killed, start_time, end_time) = values[25:34]
    (lease_epoch, lease_owner, lease_expire_time, input_given) = values[34:38]
    (instance, init, answered) = values[38:]
    return Execution(
        name=ExecutionName(namespace, execution),
        function=FunctionName(namespace, function),
        function_uid=function_uid,
        revision=revision,
        create_time=to_time(create_time),
        state=ExecutionState(state),
        failure=None if reason is None else Failure(FailureReason(reason), message, signal),
        timeout=optional(to_duration, timeout),
        interactive=bool(interactive),
        background=bool(background),
        due_time=optional(to_time, due_time),
        # It stays in the row, which a claim would else have to change twice.
        not_before=optional(to_time, not_before) if state == ExecutionState.QUEUED else None,
        position=position,
        traceparent=traceparent,
        exit_code=exit_code,
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
        last_sequence=last_sequence,
        attempt=attempt,
        cold_start=bool(cold_start),
        labels=loads_labels(labels),
        timings=Timings(
            optional(to_duration, queue),
            optional(to_duration, start),
            optional(to_duration, run),
            optional(to_duration, total),
            optional(to_duration, init),
        ),
        usage=Usage(optional(to_duration, cpu), peak_memory, bool(oom_killed)),
        start_time=optional(to_time, start_time),
        end_time=optional(to_time, end_time),
        lease=Lease(lease_epoch, lease_owner, optional(to_time, lease_expire_time)),
        input_given=bool(input_given),
        instance=instance,
        asked=loads_envelope(asked),
        answered=loads_envelope(answered),
    )
