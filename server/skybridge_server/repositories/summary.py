"""Sums over the executions of a function, counted by SQLite."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from peewee import Expression, Field, ModelSelect, Select, SqliteDatabase, fn

from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import Function
from skybridge_server.models.metrics import FunctionMetrics, LatencySummary
from skybridge_server.repositories.codec import from_time, to_duration
from skybridge_server.repositories.tables import ExecutionRow as Row

PHASES = (Row.queue_time, Row.startup_time, Row.run_time, Row.total_time, Row.init_time)
COLD = Row.cold_start == True  # noqa: E712 - SQL
WARM = (Row.cold_start == False) & (Row.instance != "")  # noqa: E712 - SQL


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
    cold_starts, cpu, peak_memory, *reached = _totals(window).tuples().first(db)
    latencies = [_latency(db, phase, n, window) for phase, n in zip(PHASES, reached, strict=True)]
    cold, warm = (_count(db, window & kind) for kind in (COLD, WARM))
    return FunctionMetrics(
        function=function.name,
        start_time=start_time,
        end_time=end_time,
        states={ExecutionState(k): n for k, n in _counts(db, Row.state, window)},
        failures={FailureReason(k): n for k, n in _counts(db, Row.failure_reason, window)},
        cold_starts=cold_starts or 0,
        queue=latencies[0],
        start=latencies[1],
        run=latencies[2],
        total=latencies[3],
        init=latencies[4],
        warm_starts=_count(db, window & WARM, ended=False),
        cold_total=_latency(db, Row.total_time, cold, window & COLD),
        warm_total=_latency(db, Row.total_time, warm, window & WARM),
        cpu=to_duration(cpu or 0),
        peak_memory_bytes=peak_memory or 0,
    )


def _totals(window: Expression) -> ModelSelect[Row]:
    return Row.select(
        fn.SUM(Row.cold_start),
        fn.SUM(Row.cpu_time),
        fn.MAX(Row.peak_memory_bytes),
        *(fn.COUNT(phase) for phase in PHASES),
    ).where(window)


def _count(db: SqliteDatabase, window: Expression, *, ended: bool = True) -> int:
    """Count executions, all or those whose time in all is known."""
    query = Row.select(fn.COUNT(Row.total_time if ended else Row.id)).where(window)
    return int(query.scalar(db))


def _counts(db: SqliteDatabase, key: Field, window: Expression) -> Any:
    query = Row.select(key, fn.COUNT(Row.id)).where(window, key.is_null(False)).group_by(key)
    return query.tuples().execute(db)


def _latency(db: SqliteDatabase, phase: Field, count: int, window: Expression) -> LatencySummary:
    """Return percentiles by nearest rank of the `count` executions that reached a phase."""
    if not count:
        return LatencySummary()
    # The smallest rank that has so many percent of all at or below it.
    ranks = [-(-count * percent // 100) for percent in (50, 95, 99)]
    rank = fn.ROW_NUMBER().over(order_by=[phase]).alias("rank")
    known = Row.select(rank, phase.alias("value")).where(window, phase.is_null(False))
    query = Select((known,), (known.c.rank, known.c.value)).where(known.c.rank.in_(ranks))
    values = dict(query.tuples().execute(db))
    return LatencySummary(*(to_duration(values[rank]) for rank in ranks))
