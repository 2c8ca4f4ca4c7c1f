"""Which output of an instance is of which execution."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.models.journal import OutputStream
from skybridge_server.services.pool import logs
from skybridge_server.services.pool.logs import InstanceLog
from tests.support.virtual_time import run
from tests.unit.services.world import settle

OUT, ERR = OutputStream


class Streams:
    """The streams of an instance, which bring what is written to them when they are told to."""

    def __init__(self, log: InstanceLog) -> None:
        log.write_boundary = self.write_boundary
        self.under_way = dict.fromkeys(OutputStream, b"")
        self.full: set[OutputStream] = set()
        self.error: OSError | None = None
        self._log = log

    def write_boundary(
        self, boundary: bytes, streams: Collection[OutputStream]
    ) -> Collection[OutputStream]:
        if self.error is not None:
            raise self.error
        taking = [stream for stream in streams if stream not in self.full]
        for stream in taking:
            self.under_way[stream] += boundary
        return taking

    async def bring(self, stream: OutputStream, sizes: Iterator[int] | None = None) -> None:
        """Hand on what is under way, in chunks of these sizes."""
        data, self.under_way[stream] = self.under_way[stream], b""
        while data:
            size = next(sizes, len(data)) if sizes else len(data)
            await self._log.add(stream, data[:size])
            data = data[size:]


class Execution:
    """What an execution has in its log."""

    def __init__(self) -> None:
        self.log = b""

    async def write(self, data: bytes) -> None:
        self.log += data


async def settling(log: InstanceLog) -> asyncio.Task[None]:
    task = asyncio.create_task(log.settle())
    await settle()
    return task


async def test_what_comes_late_is_of_the_execution_that_wrote_it() -> None:
    log, first, second = InstanceLog(), Execution(), Execution()
    streams = Streams(log)
    log.belongs_to(first.write)
    streams.under_way = {OUT: b"one ", ERR: b"uno "}
    ending = await settling(log)
    streams.under_way[OUT] += b"between"
    assert not ending.done()
    await streams.bring(OUT)
    await settle()
    assert not ending.done()
    await streams.bring(ERR)
    await ending
    log.belongs_to(second.write)
    await log.add(OUT, b"two")
    assert (first.log, second.log, log.tail) == (b"one uno ", b"two", b"between")


@given(
    st.lists(st.tuples(st.sampled_from(OutputStream), st.binary(max_size=40)), max_size=6),
    st.lists(st.integers(1, 20), min_size=1),
)
def test_however_it_is_cut_to_pieces(
    written: list[tuple[OutputStream, bytes]], sizes: list[int]
) -> None:
    async def check() -> None:
        log, execution = InstanceLog(), Execution()
        streams = Streams(log)
        log.belongs_to(execution.write)
        for stream, data in written:
            streams.under_way[stream] += data
        ending = await settling(log)
        for stream in OutputStream:
            streams.under_way[stream] += b"\0after"
            await streams.bring(stream, iter(sizes * 100))
        await ending
        expected = [b"".join(d for s, d in written if s is stream) for stream in OutputStream]
        assert execution.log == b"".join(expected)
        assert log.tail == b"\0after" * 2

    run(check())


async def test_a_full_stream_is_tried_again() -> None:
    log, execution = InstanceLog(), Execution()
    streams = Streams(log)
    streams.full = {ERR}
    log.belongs_to(execution.write)
    ending = await settling(log)
    await streams.bring(OUT)
    await log.add(ERR, b"all that was in its way")
    streams.full.clear()
    await asyncio.sleep(2 * logs.FULL_PAUSE)
    await streams.bring(ERR)
    await ending
    assert execution.log == b"all that was in its way"


async def test_a_boundary_that_does_not_come_back_was_the_last() -> None:
    log, first, second = InstanceLog(), Execution(), Execution()
    streams = Streams(log)
    log.belongs_to(first.write)
    await log.settle()
    log.belongs_to(second.write)
    streams.under_way[OUT] = b"late " + streams.under_way[OUT]
    await streams.bring(OUT)
    await log.add(OUT, b"two")
    assert (first.log, second.log, log.tail) == (b"", b"two", b"late ")
    assert log.write_boundary is None
    await log.settle()  # by time


async def test_a_store_that_is_slow_makes_no_boundary_the_last() -> None:
    log, execution, stored = InstanceLog(), Execution(), asyncio.Event()

    async def write(data: bytes) -> None:
        await stored.wait()
        await execution.write(data)

    streams = Streams(log)
    log.belongs_to(write)
    reading = asyncio.create_task(log.add(OUT, b"before "))
    ending = await settling(log)
    await asyncio.sleep(5 * logs.PATIENCE)
    stored.set()
    await reading
    await asyncio.sleep(logs.PATIENCE / 2)
    stored.clear()
    streams.under_way[ERR] = b"late " + streams.under_way[ERR]
    bringing = asyncio.create_task(streams.bring(ERR))
    await asyncio.sleep(5 * logs.PATIENCE)
    assert not ending.done()
    stored.set()
    await bringing
    await streams.bring(OUT)
    await ending
    assert execution.log == b"before late "
    assert log.write_boundary is not None


async def test_streams_that_the_function_replaced_are_given_time() -> None:
    log, execution = InstanceLog(), Execution()
    Streams(log).error = OSError("replaced")
    log.belongs_to(execution.write)
    ending = await settling(log)
    await log.add(OUT, b"late")
    await ending
    assert execution.log == b"late"
    assert log.write_boundary is None


async def test_the_end_of_an_instance_is_waited_for_by_nobody() -> None:
    log = InstanceLog()
    Streams(log)
    log.belongs_to(Execution().write)
    ending = await settling(log)
    log.end()
    await ending


async def test_who_leaves_meanwhile_leaves_the_log_to_the_execution() -> None:
    log, execution = InstanceLog(), Execution()
    streams = Streams(log)
    log.belongs_to(execution.write)
    streams.under_way[OUT] = b"before "
    ending = await settling(log)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    for stream in OutputStream:
        await streams.bring(stream)
    await log.add(OUT, b"behind")
    assert execution.log == b"before behind"
    ending = await settling(log)
    for stream in OutputStream:
        await streams.bring(stream)
    await ending
    assert (execution.log, log.tail) == (b"before behind", b"")


async def test_who_goes_on_with_an_execution_gets_what_is_under_way() -> None:
    log, caller, task, following = InstanceLog(), Execution(), Execution(), Execution()
    streams = Streams(log)
    log.belongs_to(caller.write)
    streams.under_way = {OUT: b"one ", ERR: b"uno "}
    ending = await settling(log)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    log.belongs_to(task.write)
    await streams.bring(OUT)
    log.belongs_to(None)
    log.belongs_to(following.write)
    await streams.bring(ERR)
    assert (caller.log, task.log, following.log, log.tail) == (b"", b"one ", b"", b"uno ")


async def test_an_instance_that_never_writes_is_not_waited_for() -> None:
    log = InstanceLog()
    streams = Streams(log)
    for number in range(3):
        log.belongs_to(Execution().write)
        ending = await settling(log)
        assert ending.done() == (number > 0)
        for stream in OutputStream:
            await streams.bring(stream)
        await ending
        log.belongs_to(None)
