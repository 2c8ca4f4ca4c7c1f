"""Instances whose executions leave processes behind."""

from __future__ import annotations

import asyncio

import pytest

from skybridge_server.models.functions import Resources
from skybridge_server.models.instances import InstanceState
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.pool.processes import LOOKS_BUSY, PAUSE, ProcessWatch, too_many
from tests.unit.services.pool.kit import Kit, revision

LIMIT = 40


class Counting:
    """A runtime that counts what it is told."""

    def __init__(self) -> None:
        self.count: int | None = 1

    async def processes(self, container_id: str) -> int | None:
        return self.count


class Bench:
    """An instance that is ready, and the watch over it."""

    def __init__(self) -> None:
        self.kit = Kit()
        self.runtime = Counting()
        self.watch = ProcessWatch()
        self.instance: Instance

    async def begin(self) -> None:
        self.instance = await self.kit.run(revision(resources=Resources(pids=LIMIT)))
        await self.watch.begin(self.runtime, self.instance)

    async def looks(self, count: int) -> None:
        for _ in range(count):
            self.watch.look(self.instance)
            await asyncio.sleep(PAUSE)

    def retired(self) -> bool:
        return self.instance.state is InstanceState.STOPPING


@pytest.mark.parametrize(
    ("count", "at_first", "limit", "found"),
    [(2, 2, 128, False), (65, 2, 128, False), (66, 2, 128, True), (40, 40, 40, False)],
)
def test_half_of_what_was_left_is_too_many(
    count: int, at_first: int, limit: int, found: bool
) -> None:
    assert too_many(count, at_first, limit) is found


async def test_an_idle_instance_with_too_many_is_retired() -> None:
    bench = Bench()
    await bench.begin()
    bench.runtime.count = 30
    await bench.looks(1)
    assert not bench.retired()
    await bench.looks(1)
    assert bench.retired()
    await bench.kit.pool.close()


async def test_what_goes_away_again_was_no_leak() -> None:
    bench = Bench()
    await bench.begin()
    for count in (30, 3, 30, 3):
        bench.runtime.count = count
        bench.instance.executions += 1
        await bench.looks(1)
    assert not bench.retired()
    await bench.kit.pool.close()


async def test_what_an_execution_needs_is_no_leak_unless_it_stays() -> None:
    bench = Bench()
    await bench.begin()
    bench.instance.take()
    bench.runtime.count = 30
    await bench.looks(LOOKS_BUSY - 1)
    assert not bench.retired()
    await bench.looks(1)
    assert bench.retired()
    bench.instance.leave()
    await bench.kit.pool.close()


async def test_nothing_is_counted_where_nothing_was_executed() -> None:
    bench = Bench()
    await bench.begin()
    await bench.looks(1)
    bench.runtime.count = 30
    await bench.looks(10)
    assert not bench.retired()
    await bench.watch.end(bench.instance)
    await bench.kit.pool.close()


async def test_who_cannot_count_retires_nobody() -> None:
    bench = Bench()
    await bench.begin()
    bench.runtime.count = None
    await bench.looks(3)
    await bench.watch.begin(object(), bench.instance)
    assert not bench.retired()
    await bench.kit.pool.close()
