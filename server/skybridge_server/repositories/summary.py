"""Sums over the executions of a function, counted by SQLite."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from peewee import Expression, Field, ModelSelect, SqliteDatabase, fn

from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Function
from skybridge_server.models.metrics import FunctionMetrics, LatencySummary
from skybridge_server.repositories.codec import from_time, to_duration
from skybridge_server.repositories.tables import ExecutionRow as Row


def summarize(
    db: SqliteDatabase, function: Function, *, start_time: datetime, end_time: datetime
) -> FunctionMetrics:
    """Sum up the executions that were created in [start_time, end_time)."""
    window = (
        (Row.namespace == function.name.namespace)
        & (Row.function == function.name.function)
        & (Row.create_time >= from_time(start_time))
        & (Row.create_time < from_time(end_time))
        & (Row.function_uid == function.uid)
    )
    cold_starts, cpu, peak_memory = _totals(window).tuples().first(db)
    return FunctionMetrics(
        function=function.name,
        start_time=start_time,
        end_time=end_time,
        states={ExecutionState(k): n for k, n in _counts(db, Row.state, window)},
        failures={FailureReason(k): n for k, n in _counts(db, Row.failure_reason, window)},
        cold_starts=cold_starts or 0,
        queue=_latency(db, Row.queue_time, window),
        start=_latency(db, Row.startup_time, window),
        run=_latency(db, Row.run_time, window),
        total=_latency(db, Row.total_time, window),
        cpu=to_duration(cpu or 0),
        peak_memory_bytes=peak_memory or 0,
    )


def _totals(window: Expression) -> ModelSelect[Row]:
    return Row.select(
        fn.SUM(Row.cold_start), fn.SUM(Row.cpu_time), fn.MAX(Row.peak_memory_bytes)
    ).where(window)


def _counts(db: SqliteDatabase, key: Field, window: Expression) -> Any:
    query = Row.select(key, fn.COUNT(Row.id)).where(window, key.is_null(False)).group_by(key)
    return query.tuples().execute(db)


def _latency(db: SqliteDatabase, column: Field, window: Expression) -> LatencySummary:
    """Return percentiles by nearest rank."""
    known = Row.select(column).where(window, column.is_null(False))
    count = known.count(db)
    if not count:
        return LatencySummary()
    return LatencySummary(*(_ranked(db, known, column, count, p) for p in (50, 95, 99)))


def _ranked(
    db: SqliteDatabase, known: ModelSelect[Row], column: Field, count: int, percent: int
) -> timedelta:
    rank = -(-count * percent // 100)  # the smallest rank that has `percent` of all at or below it
    return to_duration(known.order_by(column).limit(1).offset(rank - 1).scalar(db))
