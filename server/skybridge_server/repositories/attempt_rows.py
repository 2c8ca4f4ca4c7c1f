"""Attempts of executions as rows of their table."""

from __future__ import annotations

from typing import Any

from peewee import SqliteDatabase

from skybridge_server.models.executions import Attempt, Failure, FailureReason, Timings, Usage
from skybridge_server.repositories import statements
from skybridge_server.repositories.codec import (
    from_duration,
    from_time,
    optional,
    to_duration,
    to_time,
)
from skybridge_server.repositories.statements import ANY
from skybridge_server.repositories.tables import AttemptRow as Row

COLUMNS = (
    Row.number,
    Row.failure_reason,
    Row.failure_message,
    Row.failure_signal,
    Row.exit_code,
    Row.stdout_bytes,
    Row.stderr_bytes,
    Row.last_sequence,
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
)

ADD = statements.insert(Row, (Row.execution, *COLUMNS))
OF_EXECUTION = statements.select(COLUMNS, Row.execution == ANY, order_by=Row.number)


def add(db: SqliteDatabase, execution_id: int, attempt: Attempt) -> None:
    failure, timings, usage = attempt.failure, attempt.timings, attempt.usage
    values = (
        execution_id,
        attempt.number,
        failure.reason,
        failure.message,
        failure.signal,
        attempt.exit_code,
        attempt.stdout_bytes,
        attempt.stderr_bytes,
        attempt.last_sequence,
        attempt.cold_start,
        optional(from_duration, timings.queue),
        optional(from_duration, timings.start),
        optional(from_duration, timings.run),
        optional(from_duration, timings.total),
        optional(from_duration, usage.cpu),
        usage.peak_memory_bytes,
        usage.oom_killed,
        optional(from_time, attempt.start_time),
        from_time(attempt.end_time),
    )
    db.execute_sql(ADD, values)


def of_execution(db: SqliteDatabase, execution_id: int) -> list[Attempt]:
    """Return the attempts of an execution that others followed, in order."""
    return [_from_values(row) for row in db.execute_sql(OF_EXECUTION, (execution_id,))]


def _from_values(values: tuple[Any, ...]) -> Attempt:
    (number, reason, message, signal, exit_code, stdout_bytes, stderr_bytes) = values[:7]
    (last_sequence, cold_start, queue, start, run, total) = values[7:13]
    (cpu, peak_memory, oom_killed, start_time, end_time) = values[13:]
    return Attempt(
        number=number,
        failure=Failure(FailureReason(reason), message, signal),
        exit_code=exit_code,
        stdout_bytes=stdout_bytes,
        stderr_bytes=stderr_bytes,
        last_sequence=last_sequence,
        cold_start=bool(cold_start),
        timings=Timings(
            optional(to_duration, queue),
            optional(to_duration, start),
            optional(to_duration, run),
            optional(to_duration, total),
        ),
        usage=Usage(optional(to_duration, cpu), peak_memory, bool(oom_killed)),
        start_time=optional(to_time, start_time),
        end_time=to_time(end_time),
    )
