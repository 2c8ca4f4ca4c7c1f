"""The journal: dense, ordered, never ahead of the disk, bounded, honest about what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skybridge_server.errors import StorageError
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.functions import KIB, MIB
from skybridge_server.models.journal import Event, Gap, GapReason, Output, OutputStream, StateChange
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.services import journal as journal_module
from skybridge_server.services.journal import EVENT_COST, RECENT_BYTES, UNSTORED_BYTES, Journal
from tests.fakes.repositories import FakeRepositories
from tests.fakes.runtime import Gate
from tests.support.virtual_time import run
from tests.unit.services.world import check_journal, gaps_of, output_of, put_behind, settle

STDOUT, STDERR = OutputStream
S = ExecutionState


class Desk:
    """A journal over a store that can be held and failed."""

    def __init__(self, limit: int = MIB) -> None:
        self.disk = Gate()
        self.store = FakeRepositories().executions
        put_behind(self.disk, self.store, "append")
        name = ExecutionName("default", new_id())
        self.execution = Execution(name, FunctionName("default", "f"), "uid", 1, datetime.now(UTC))
        self.journal = Journal(self.execution, self.store, limit)

    async def open(self) -> Desk:
        execution, events = self.journal.open()
        await self.store.add(execution, b"", events)
        self.journal.stored(events)
        return self

    async def running(self) -> Desk:
        await self.open()
        self.journal.change_state(S.STARTING)
        self.journal.change_state(S.RUNNING)
        await self.journal.flush()
        return self

    async def end(self, gap_reason: GapReason | None = None) -> None:
        ended = replace(self.journal.execution, state=S.SUCCEEDED)
        await self.journal.end(ended, gap_reason=gap_reason)
        check_journal(self.events, self.journal.execution)

    @property
    def events(self) -> list[Event]:
        return self.store.journals[self.execution.name]


async def test_the_execution_is_stored_with_the_sequence_of_its_first_event() -> None:
    desk = await Desk().open()
    stored = await desk.store.get(desk.execution.name)
    assert stored.last_sequence == 1
    again = Journal(stored, desk.store, MIB)
    again.change_state(S.STARTING)
    await again.flush()
    assert [event.sequence for event in desk.events] == [1, 2]


async def test_events_are_dense_and_in_order() -> None:
    desk = await Desk().running()
    for index in range(10):
        await desk.journal.add_output(STDERR if index % 3 else STDOUT, b"%d" % index)
    desk.journal.change_state(S.CANCELLING)
    ended = replace(desk.journal.execution, state=S.CANCELLED, failure=None)
    await desk.journal.end(replace(ended, state=S.SUCCEEDED))
    sequences = [event.sequence for event in desk.events]
    assert sequences == list(range(1, len(sequences) + 1))
    assert output_of(desk.events) == b"0369"
    assert output_of(desk.events, STDERR) == b"124578"


async def test_nothing_can_be_read_before_it_is_on_disk() -> None:
    desk = await Desk().running()
    release = desk.disk.hold("append")
    await desk.journal.add_output(STDOUT, b"x")
    await settle()
    assert desk.journal.recent(3) == []
    assert desk.journal.last_sequence == 3
    assert desk.journal.snapshot().last_sequence == 3
    assert not await desk.journal.changed(3, seconds=5)
    release.set()
    assert await desk.journal.changed(3, seconds=5)
    (event,) = desk.journal.recent(3) or []
    assert event.body == Output(STDOUT, 0, b"x")


async def test_nothing_is_shown_that_a_crash_could_take_back() -> None:
    desk = await Desk().open()
    desk.journal.change_state(S.STARTING)
    await desk.journal.flush()
    on_disk = await desk.store.get(desk.execution.name)
    release = desk.disk.hold("append")
    desk.journal.change_state(S.RUNNING, start_time=datetime.now(UTC))
    await desk.journal.add_output(STDOUT, b"x")
    latest = asyncio.create_task(desk.journal.latest())
    await settle()
    assert desk.journal.snapshot() == on_disk
    assert not latest.done()
    release.set()
    shown = await latest
    assert (shown.state, shown.last_sequence, shown.stdout_bytes) == (S.RUNNING, 4, 1)
    assert shown.start_time is not None


async def test_a_change_that_the_disk_refuses_is_never_shown() -> None:
    desk = await Desk().running()
    desk.disk.failures["append"] = StorageError("disk full")
    desk.journal.change_state(S.CANCELLING)
    assert (await desk.journal.latest()).state is S.RUNNING


async def test_one_call_at_a_time_takes_all_that_waits() -> None:
    desk = await Desk().running()
    release = desk.disk.hold("append")
    await desk.journal.add_output(STDOUT, b"a")
    await settle()
    for data in (b"b", b"c"):
        await desk.journal.add_output(STDOUT, data)
    await desk.journal.add_output(STDERR, b"!")
    await desk.journal.add_output(STDOUT, b"d")
    release.set()
    await desk.journal.flush()
    bodies = [event.body for event in desk.events if isinstance(event.body, Output)]
    assert bodies == [
        Output(STDOUT, 0, b"a"),
        Output(STDOUT, 1, b"bc"),  # put together while the disk was busy
        Output(STDERR, 0, b"!"),
        Output(STDOUT, 3, b"d"),
    ]


async def test_output_past_the_limit_is_counted_and_marked_by_one_gap_a_stream() -> None:
    desk = await Desk(limit=10).running()
    for _ in range(5):
        await desk.journal.add_output(STDOUT, b"1234")
        await desk.journal.add_output(STDERR, b"12345678")
    assert desk.journal.output_truncated(STDOUT)
    await desk.end()
    assert gaps_of(desk.events) == [
        Gap(STDOUT, 10, 10, GapReason.OUTPUT_LIMIT),
        Gap(STDERR, 10, 30, GapReason.OUTPUT_LIMIT),
    ]
    assert output_of(desk.events) == b"1234123412"
    ended = desk.journal.execution
    assert (ended.stdout_bytes, ended.stderr_bytes) == (20, 40)


async def test_output_that_just_fits_leaves_no_gap() -> None:
    desk = await Desk(limit=10).running()
    await desk.journal.add_output(STDOUT, b"1234567890")
    assert not desk.journal.output_truncated(STDOUT)
    await desk.end()
    assert not gaps_of(desk.events)


async def test_the_log_tail_is_bounded() -> None:
    desk = await Desk().running()
    await desk.journal.add_output(STDERR, b"a" * 10_000)
    await desk.journal.add_output(STDERR, b"the end")
    assert len(desk.journal.log_tail) == 8 * KIB
    assert desk.journal.log_tail.endswith(b"athe end")


# -- back-pressure ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 64 * KIB])
async def test_a_slow_disk_holds_the_writer_back(size: int) -> None:
    desk = await Desk(limit=1024 * MIB).running()
    release = desk.disk.hold("append")
    written = 0

    async def write() -> None:
        nonlocal written
        while written < 3 * UNSTORED_BYTES // (EVENT_COST + size):
            await desk.journal.add_output(OutputStream(1 + written % 2), b"x" * size)
            written += 1

    writing = asyncio.create_task(write())
    await asyncio.sleep(60)
    assert not writing.done()
    assert desk.journal._unstored_bytes <= UNSTORED_BYTES + size + EVENT_COST
    release.set()
    await writing
    await desk.end()
    assert len(output_of(desk.events)) == (written + 1) // 2 * size


async def test_the_store_gets_it_in_portions_and_the_state_with_its_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "BATCH_BYTES", 1000)
    desk = await Desk().running()
    release = desk.disk.hold("append")
    sizes: list[int] = []
    states: list[S | None] = []
    append = desk.store.append

    async def note(
        name: ExecutionName, events: list[Event], state: Execution | None, **more: Any
    ) -> None:
        sizes.append(len(events))
        states.append(None if state is None else state.state)
        await append(name, events, state, **more)

    monkeypatch.setattr(desk.store, "append", note)
    await desk.journal.add_output(STDOUT, b"first")
    await settle()
    for index in range(8):
        await desk.journal.add_output(OutputStream(1 + index % 2), b"x" * 400)
        if index == 3:
            desk.journal.change_state(S.CANCELLING)
    release.set()
    await desk.journal.flush()
    assert (sizes, states) == ([1, 2, 2, 3, 2], [None, None, None, S.CANCELLING, None])


async def test_memory_keeps_only_the_last_events() -> None:
    desk = await Desk(limit=1024 * MIB).running()
    for _ in range(100):
        await desk.journal.add_output(STDOUT, b"x" * 64 * KIB)
        await desk.journal.flush()
    assert desk.journal.recent(0) is None
    assert len(output_of([*desk.journal._recent])) <= RECENT_BYTES
    recent = desk.journal.recent(desk.journal.last_sequence - 2)
    assert recent is not None
    assert [event.sequence for event in recent] == [102, 103]


async def test_an_ended_journal_keeps_little_more_than_its_result() -> None:
    desk = await Desk(limit=10).running()
    await desk.journal.add_output(STDOUT, b"x" * 20)
    await desk.end()
    assert [type(event.body).__name__ for event in desk.journal._recent] == ["Gap", "Result"]


# -- a store that refuses -----------------------------------------------------------------------


async def test_refused_output_becomes_a_gap() -> None:
    desk = await Desk().running()
    await desk.journal.add_output(STDOUT, b"kept")
    await desk.journal.flush()
    desk.disk.failures["append"] = StorageError("disk full")
    await desk.journal.add_output(STDOUT, b"lost")
    await settle()
    with pytest.raises(StorageError, match="disk full"):
        await desk.journal.add_output(STDOUT, b"refused")
    with pytest.raises(StorageError, match="disk full"):
        await desk.journal.flush()
    with pytest.raises(StorageError):
        await desk.end()
    desk.disk.failures.clear()
    await desk.end()
    assert gaps_of(desk.events) == [Gap(STDOUT, 4, 4, GapReason.STORAGE_UNAVAILABLE)]


async def test_what_comes_after_something_refused_is_never_stored() -> None:
    """Or the journal had a hole."""
    desk = await Desk().running()
    release = desk.disk.hold("append")
    await desk.journal.add_output(STDOUT, b"a" * 9000)
    await settle()
    await desk.journal.add_output(STDOUT, b"b" * 9000)
    desk.disk.failures["append"] = StorageError("disk full")
    release.set()
    await settle()
    desk.disk.failures.clear()
    await desk.end()
    assert output_of(desk.events) == b""
    assert gaps_of(desk.events) == [Gap(STDOUT, 0, 18_000, GapReason.STORAGE_UNAVAILABLE)]


async def test_a_refused_change_of_state_is_left_out() -> None:
    desk = await Desk().open()
    desk.disk.failures["append"] = StorageError("disk full")
    desk.journal.change_state(S.STARTING)
    with pytest.raises(StorageError):
        await desk.journal.flush()
    desk.disk.failures.clear()
    ended = replace(desk.journal.execution, state=S.FAILED)
    await desk.journal.end(ended)
    assert [event.sequence for event in desk.events] == [1, 2]


async def test_a_defect_of_the_store_counts_as_refusal() -> None:
    desk = await Desk().running()
    desk.disk.failures["append"] = ValueError("a defect")
    await desk.journal.add_output(STDOUT, b"x")
    with pytest.raises(StorageError, match="internal error"):
        await desk.journal.flush()


async def test_a_writer_that_waits_for_the_disk_is_let_go_when_it_refuses() -> None:
    desk = await Desk(limit=1024 * MIB).running()
    release = desk.disk.hold("append")
    desk.disk.failures["append"] = StorageError("disk full")

    async def write() -> None:
        while True:
            await desk.journal.add_output(STDOUT, b"x" * 64 * KIB)

    writing = asyncio.create_task(write())
    await settle()
    release.set()
    with pytest.raises(StorageError):
        await writing


async def test_broken_off_streams_are_marked_as_such() -> None:
    desk = await Desk(limit=2).running()
    await desk.journal.add_output(STDOUT, b"abc")
    await desk.end(GapReason.RUNTIME_UNAVAILABLE)
    assert gaps_of(desk.events) == [
        Gap(STDOUT, 2, None, GapReason.RUNTIME_UNAVAILABLE),
        Gap(STDERR, 0, None, GapReason.RUNTIME_UNAVAILABLE),
    ]


async def test_states_keep_to_the_table() -> None:
    desk = await Desk().open()
    with pytest.raises(AssertionError, match="QUEUED cannot become CANCELLING"):
        desk.journal.change_state(S.CANCELLING)
    with pytest.raises(AssertionError, match="QUEUED cannot become SUCCEEDED"):
        await desk.end()


# -- any course of things -----------------------------------------------------------------------


class Story:
    """A writer, a reader and a disk with moods."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.seen: list[Event] = []
        self.written = {STDOUT: b"", STDERR: b""}
        self.moods: dict[str, Callable[[], object]] = {
            "good": self.please,
            "slow": lambda: desk.disk.hold("append"),
            "full": lambda: desk.disk.failures.update(append=StorageError("disk full")),
        }

    def please(self) -> None:
        self.desk.disk.failures.clear()
        if held := self.desk.disk.held.pop("append", None):
            held.set()

    def look(self) -> None:
        after = self.seen[-1].sequence if self.seen else 0
        assert self.desk.journal.last_sequence <= len(self.desk.events)
        recent = self.desk.journal.recent(after)
        if recent is None:  # then from the store, as a reader does
            recent = [event for event in self.desk.events if event.sequence > after]
        self.seen.extend(recent)

    async def write(self, stream: OutputStream, data: bytes) -> None:
        with suppress(StorageError):
            await self.desk.journal.add_output(stream, data)
            self.written[stream] += data

    def check_stream(self, stream: OutputStream) -> None:
        written, kept = self.written[stream], output_of(self.desk.events, stream)
        assert written.startswith(kept)
        missing = len(written) - len(kept)
        gaps = [gap.length for gap in gaps_of(self.desk.events) if gap.stream is stream]
        assert gaps == ([missing] if missing else [])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(OutputStream),
        st.integers(1, 3000),
        st.sampled_from(["", "", "look", "good", "slow", "full"]),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(
    steps=STEPS,
    limit=st.sampled_from([1, 1500, 5000, MIB]),
    recent=st.sampled_from([1, 2000, MIB]),
    batch=st.sampled_from([1, MIB]),
)
def test_readers_see_everything_once_and_in_order(
    steps: list[tuple[OutputStream, int, str]], limit: int, recent: int, batch: int
) -> None:
    async def example() -> None:
        story = Story(await Desk(limit).running())
        for number, (stream, size, then) in enumerate(steps):
            await story.write(stream, bytes([number]) * size)
            if then == "look":
                await settle()
                story.look()
            elif then:
                story.moods[then]()
        story.please()
        await story.desk.end()
        story.look()
        assert story.seen == story.desk.events
        assert isinstance(story.seen[0].body, StateChange)
        for stream in OutputStream:
            story.check_stream(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "RECENT_BYTES", recent)
        patch.setattr(journal_module, "BATCH_BYTES", batch)
        run(example())
