"""Logs of an execution and of a function: filters, tails, following without gap or repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skybridge_server.errors import NotFoundError, StorageError
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import KIB, Resources
from skybridge_server.models.journal import Gap, GapReason, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services import following, logs
from skybridge_server.services.requests import LogEntry, LogQuery
from skybridge_server.services.tail import TAIL_BYTES, Tail
from tests.fakes.runtime import FakeProcess, Program, says, sleep
from tests.unit.services.world import HELLO, World, settle

STDOUT, STDERR = OutputStream
NAME = ExecutionName("default", "e")
NOW = datetime.now(UTC)


def entries_of(
    world: World, target: ExecutionName | FunctionName, **query: object
) -> AsyncGenerator[LogEntry]:
    return world.services.executions.logs(target, LogQuery(**query))  # type: ignore[arg-type]


async def read(world: World, target: ExecutionName | FunctionName, **query: object) -> bytes:
    return text([entry async for entry in entries_of(world, target, **query)])


def text(entries: list[LogEntry]) -> bytes:
    return b"".join(e.body.data for e in entries if isinstance(e.body, Output))


class Prompter:
    """A program that says what it is told to, and ends when told."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, process: FakeProcess) -> int:
        while (line := await self.lines.get()) is not None:
            await process.write(line)
        return 0

    async def say(self, *lines: bytes | None) -> None:
        for line in lines:
            self.lines.put_nowait(line)
        await settle()


class Reader:
    """Reads a stream of logs in the background."""

    def __init__(self, entries: AsyncGenerator[LogEntry]) -> None:
        self.seen: list[LogEntry] = []
        self.task = asyncio.create_task(self._read(entries))

    async def _read(self, entries: AsyncGenerator[LogEntry]) -> None:
        async with aclosing(entries):
            async for entry in entries:
                self.seen.append(entry)

    @property
    def text(self) -> bytes:
        return text(self.seen)

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


# -- one execution ------------------------------------------------------------------------------


async def test_one_execution(world: World) -> None:
    await world.deployed(program=says(b"one\ntwo\nthree\n", b"oops\n"))
    execution = await world.run()
    assert await read(world, execution.name) == b"one\ntwo\nthree\noops\n"
    assert await read(world, execution.name, stream=STDERR) == b"oops\n"
    assert await read(world, execution.name, stream=STDOUT, tail_lines=2) == b"two\nthree\n"
    assert await read(world, execution.name, follow=True) == b"one\ntwo\nthree\noops\n"
    assert await read(world, execution.name, follow=True, tail_lines=1) == b"oops\n"


async def test_gaps_are_shown(world: World) -> None:
    await world.deployed(program=says(b"x" * 2000), resources=Resources(output_bytes=KIB))
    execution = await world.run()
    *_, last = [entry async for entry in entries_of(world, execution.name)]
    assert isinstance(last.body, Gap)
    assert (last.execution, last.body.length) == (execution.name, 2000 - KIB)


async def test_since(world: World) -> None:
    prompter = Prompter()
    await world.deployed(program=prompter)
    name = await world.start()
    await prompter.say(b"before")
    since = datetime.now(UTC)
    await prompter.say(b"after", None)
    await world.ended(name)
    assert await read(world, name, since=since) == b"after"
    assert await read(world, HELLO, since=since) == b"after"
    assert await read(world, HELLO, since=datetime.now(UTC)) == b""


async def test_what_does_not_exist(world: World) -> None:
    for target in (HELLO, NAME):
        with pytest.raises(NotFoundError):
            await read(world, target)


@pytest.mark.parametrize("tail", [0, 2])
async def test_following_one_ends_with_it(world: World, tail: int) -> None:
    prompter = Prompter()
    await world.deployed(program=prompter)
    name = await world.start()
    await prompter.say(b"1\n", b"2\n", b"3\n")
    reader = Reader(entries_of(world, name, follow=True, tail_lines=tail))
    await settle()
    await prompter.say(b"4\n", None)
    await reader.task
    assert reader.text == (b"2\n3\n4\n" if tail else b"1\n2\n3\n4\n")


# -- a function ---------------------------------------------------------------------------------


async def test_all_of_a_function_in_order(world: World) -> None:
    await world.deployed()
    for number in range(5):
        world.runtime.containers.program = says(b"%d\n" % number)
        await world.run()
    other = await world.deployed(FunctionName("default", "other"), program=says(b"other\n"))
    await world.run(other)
    assert await read(world, HELLO) == b"0\n1\n2\n3\n4\n"
    assert await read(world, HELLO, tail_lines=2) == b"3\n4\n"
    assert await read(world, HELLO, tail_lines=100) == b"0\n1\n2\n3\n4\n"
    assert await read(world, other) == b"other\n"


async def test_more_than_a_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PAGE", 2)
    await world.deployed(program=says(b"x\n"))
    for _ in range(5):
        await world.run()
    assert await read(world, HELLO) == b"x\n" * 5
    assert await read(world, HELLO, tail_lines=4) == b"x\n" * 4


async def test_following_a_function(world: World) -> None:
    await world.deployed(program=says(b"history\n"))
    await world.run()
    prompter = world.runtime.containers.program = Prompter()
    running = await world.start()
    await prompter.say(b"running\n")
    reader = Reader(entries_of(world, HELLO, follow=True))
    await settle()
    assert reader.text == b"history\nrunning\n"
    await prompter.say(b"more\n", None)
    await world.ended(running)
    world.runtime.containers.program = says(b"new\n")
    await world.run()
    await settle()
    assert reader.text == b"history\nrunning\nmore\nnew\n"
    await reader.leave()
    assert not world.services.registry._listeners


async def test_following_the_tail_shows_nothing_old_of_what_still_runs(world: World) -> None:
    prompter = Prompter()
    await world.deployed(program=prompter)
    running = await world.start()
    await prompter.say(b"long ago\n")
    world.runtime.containers.program = says(b"a\nb\n")
    await world.run()
    reader = Reader(entries_of(world, HELLO, follow=True, tail_lines=1))
    await settle()
    assert reader.text == b"b\n"
    await prompter.say(b"now\n", None)
    await world.ended(running)
    await settle()
    assert reader.text == b"b\nnow\n"
    await reader.leave()


async def test_what_starts_and_ends_while_the_history_is_read(world: World) -> None:
    await world.deployed(program=says(b"history\n"))
    await world.run()
    release = world.disk.hold("list")
    reader = Reader(entries_of(world, HELLO, follow=True))
    await settle()
    world.runtime.containers.program = says(b"meanwhile\n")
    await world.run()
    release.set()
    await settle()
    assert reader.text == b"history\nmeanwhile\n"
    world.runtime.containers.program = says(b"after\n")
    await world.run()
    await settle()
    assert reader.text == b"history\nmeanwhile\nafter\n"
    await reader.leave()


async def test_filters_hold_while_following(world: World) -> None:
    await world.deployed(program=says(b"out", b"err"))
    reader = Reader(entries_of(world, HELLO, follow=True, stream=STDERR))
    await world.run()
    await settle()
    assert reader.text == b"err"
    await reader.leave()


async def test_a_stalled_follower_holds_no_execution_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FOLLOWED_AT_ONCE", 5)
    await world.deployed(program=says(b"x" * 1000, b"y" * 1000))
    entries = entries_of(world, HELLO, follow=True)
    reading = asyncio.ensure_future(anext(entries))
    await settle()
    count = 200
    for _ in range(count):
        await world.run()
    seen = [await reading]
    assert len(world.journals_in_memory()) <= 5
    while len(seen) < 2 * count:
        seen.append(await anext(entries))
    assert len(text(seen)) == count * 2000
    await entries.aclose()


async def test_what_is_deleted_before_it_is_followed_is_left_out(world: World) -> None:
    await world.deployed(program=says(b"x"))
    reader = Reader(entries_of(world, HELLO, follow=True))
    await settle()
    (launches,) = world.services.registry._listeners
    launches._positions[NAME] = 0
    await world.run()
    await settle()
    assert reader.text == b"x"
    await reader.leave()


async def test_a_store_that_fails_is_told(world: World) -> None:
    await world.deployed(program=sleep)
    name = await world.start()
    await world.reaches(name, ExecutionState.RUNNING)
    world.disk.failures["events"] = StorageError("disk gone")
    for target in (name, HELLO):
        with pytest.raises(StorageError):
            await read(world, target, follow=True)


# -- the tail -----------------------------------------------------------------------------------


def entry(data: bytes, offset: int = 0, stream: OutputStream = STDOUT) -> LogEntry:
    return LogEntry(NAME, NOW, Output(stream, offset, data))


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", min_size=1, max_size=8).map(str.encode), max_size=20),
    lines=st.integers(1, 12),
)
def test_a_tail_is_the_end_of_the_text_cut_at_lines(pieces: list[bytes], lines: int) -> None:
    tail = Tail(lines)
    position = 0
    for piece in pieces:
        tail.add(entry(piece, position))
        position += len(piece)
    everything = b"".join(pieces)
    expected = b"".join(everything.splitlines(keepends=True)[-lines:])
    kept = [*tail]
    assert text(kept) == expected
    assert tail.lines == len(expected.splitlines())
    for each in kept:
        assert isinstance(each.body, Output)
        assert everything[each.body.offset :].startswith(each.body.data)


def test_a_tail_is_bounded_however_long_its_lines() -> None:
    tail = Tail(10)
    for _ in range(200):
        tail.add(entry(b"x" * 64 * KIB))
    assert len(text([*tail])) <= TAIL_BYTES
    tail = Tail(10)
    for _ in range(100_000):
        tail.add(entry(b"x"))
    assert len([*tail]) * 256 <= TAIL_BYTES


def test_gaps_count_as_no_line() -> None:
    tail = Tail(1)
    tail.add(entry(b"a\nb\n"))
    tail.add(LogEntry(NAME, NOW, Gap(STDOUT, 4, None, GapReason.OUTPUT_LIMIT)))
    assert text([*tail]) == b"b\n"
    assert tail.lines == 1


async def test_tails_of_many_executions_are_bounded_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TAIL_BYTES", 10_000)
    program: Program = says(b"x" * 3000)
    await world.deployed(program=program)
    for _ in range(20):
        await world.run()
    assert 6000 <= len(await read(world, HELLO, tail_lines=1000)) <= 13_000
