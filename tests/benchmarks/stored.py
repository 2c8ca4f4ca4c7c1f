"""A million stored executions against a thousand: what callers wait for must not grow with them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Lease,
)
from skybridge_server.models.journal import Output, OutputStream, StateChange
from skybridge_server.models.journal import Result as Ended
from skybridge_server.models.names import ExecutionName, new_id
from skybridge_server.models.paging import ExecutionQuery, PageRequest
from skybridge_server.repositories.store import SqliteRepositories
from tests.benchmarks.harness import Result, milliseconds, timed
from tests.contract.test_repositories import execution, journal

FEW, MANY = 1_000, 1_000_000
ROUNDS = 200
BAR = 1.5
PAGE = PageRequest(50)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=1)
FAILS_EVERY = 10
EVENTS = 4
MICROSECONDS = 1_000_000
A_DATE = 10**15
"""What is more is a date and not a length of time, both in microseconds."""

Store = SqliteRepositories
Work = Callable[[Store], Awaitable[object]]


async def run() -> list[Result]:
    """Measure both stores in turn, through the repositories."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "few.db"), Path(folder, "many.db")
        for path in paths:
            store = await Store.open(path)
            await _fill_as_the_server_does(store)
            await store.close()
        began = time.perf_counter()
        await asyncio.to_thread(_multiply, paths[1], MANY // FEW)
        filled = time.perf_counter() - began
        few, many = [await Store.open(path) for path in paths]
        try:
            names = [_names(path) for path in paths]
            figures = [await _compare(name, work, few, many) for name, work in WORKS.items()]
            figures.append(await _compare_gets(few, many, *names))
        finally:
            await few.close()
            await many.close()
        size = paths[1].stat().st_size
    print(f"{MANY:,} executions, {size >> 20} MiB, made in {filled:.0f} s")
    return figures


# -- filling --------------------------------------------------------------------------------------


async def _fill_as_the_server_does(store: Store) -> None:
    await asyncio.gather(*(_run_one(store, number) for number in range(FEW)))


async def _run_one(store: Store, number: int) -> Execution:
    """Store an execution with its journal, as one that was started, ran and ended."""
    created = BEGIN + number * STEP
    added = execution(create_time=created, labels={"batch": str(number % 10)})
    await store.executions.add(added, b"input", journal(StateChange(ExecutionState.QUEUED)))
    lease = Lease(1, "server", created + timedelta(hours=1))
    running = replace(
        added, state=ExecutionState.RUNNING, start_time=created, last_sequence=2, lease=lease
    )
    change = journal(StateChange(ExecutionState.RUNNING), first=2)
    await store.executions.append(added.name, change, running)
    fails = number % FAILS_EVERY == 0
    ended = replace(
        running,
        state=ExecutionState.FAILED if fails else ExecutionState.SUCCEEDED,
        failure=Failure(FailureReason.EXIT_CODE, "exit code 1") if fails else None,
        end_time=created + STEP,
        stdout_bytes=6,
        last_sequence=EVENTS,
        lease=Lease(1),
    )
    last = journal(Output(OutputStream.STDOUT, 0, b"output"), Ended(ended), first=3)
    await store.executions.append(added.name, last, ended, epoch=1)
    return ended


def _multiply(path: Path, times: int) -> None:
    """Repeat all that is there, each time later, as other executions."""
    with closing(sqlite3.connect(path)) as database:
        for table in ("executions", "execution_labels", "inputs", "events"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            rows = database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table} VALUES ({marks})"
            for turn in range(1, times):
                database.executemany(statement, _later(columns, rows, turn))
        database.commit()


def _later(
    columns: Sequence[str], rows: Sequence[tuple[Any, ...]], turn: int
) -> Iterator[tuple[Any, ...]]:
    shift = turn * FEW * MICROSECONDS
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        for column, value in values.items():
            if column.endswith("time") and value is not None and value > A_DATE:
                values[column] = value + shift
        for reference in ("owner_id", "execution_id"):
            if reference in values:
                values[reference] += turn * FEW
        if "id" in values:
            values["id"] += turn * (FEW if "execution" in values else FEW * EVENTS)
        if "execution" in values:
            values["execution"] = new_id()
        yield tuple(values.values())


# -- measuring ------------------------------------------------------------------------------------


async def _list(store: Store) -> None:
    await store.executions.list(ExecutionQuery("default"), PAGE)


async def _list_function(store: Store) -> None:
    await store.executions.list(ExecutionQuery("default", function="hello"), PAGE)


async def _list_failed(store: Store) -> None:
    failed = frozenset({ExecutionState.FAILED})
    await store.executions.list(ExecutionQuery("default", states=failed), PAGE)


async def _add_and_claim(store: Store) -> None:
    """Store one that is due, queue it, claim it, and end it: all that a claim stands for."""
    now = datetime.now(UTC)
    added = execution(create_time=now, due_time=now, not_before=now)
    await store.executions.add(added, b"", journal(StateChange(ExecutionState.QUEUED)))
    await store.waiting.queue_due(now, 10, position=1)
    until = now + timedelta(hours=1)
    (claimed,) = await store.waiting.claim_first(added.function_uid, 10, "server", until)
    assert claimed.name == added.name
    lease = Lease(2, "server", until)
    running = replace(claimed, state=ExecutionState.RUNNING, start_time=now, lease=lease)
    change = journal(StateChange(ExecutionState.RUNNING), first=2)
    await store.executions.append(added.name, change, running, epoch=1)
    ended = replace(running, state=ExecutionState.SUCCEEDED, end_time=now, lease=Lease(2))
    await store.executions.append(added.name, journal(Ended(ended), first=3), ended, epoch=2)


async def _take_over(store: Store) -> None:
    now = datetime.now(UTC)
    assert not await store.executions.take_over("server", now=now, expire_time=now)


WORKS: dict[str, Work] = {
    "list the newest 50": _list,
    "list the newest 50 of a function": _list_function,
    "list the newest 50 that failed": _list_failed,
    "store, claim and end one": _add_and_claim,
    "take over what a server left": _take_over,
}


async def _compare(name: str, work: Work, few: Store, many: Store) -> Result:
    return await _ratio(name, lambda: work(few), lambda: work(many))


async def _compare_gets(
    few: Store, many: Store, of_few: list[ExecutionName], of_many: list[ExecutionName]
) -> Result:
    return await _ratio(
        "get any one",
        lambda: few.executions.get(random.choice(of_few)),
        lambda: many.executions.get(random.choice(of_many)),
    )


async def _ratio(
    name: str, small: Callable[[], Awaitable[object]], big: Callable[[], Awaitable[object]]
) -> Result:
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(ROUNDS):
        for work, seconds in ((small, floor), (big, ours)):
            seconds.append(await timed(work()))
    ratio = statistics.median(ours) / statistics.median(floor)
    detail = f"{milliseconds(ours)} of {MANY:,} against {milliseconds(floor)} of {FEW:,}"
    return Result(name, ratio, BAR, detail=detail)


def _names(path: Path) -> list[ExecutionName]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT namespace, execution FROM executions").fetchall()
    return [ExecutionName(*row) for row in rows]
