"""What the next process finds of the instances of this one."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.services.pool.marks import MAGIC, RECORD_BYTES, Facts, Marks

FACTS = Facts(
    instance=str(uuid.UUID(int=1)),
    function_uid=str(uuid.UUID(int=2)),
    revision=3,
    revision_time=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    create_time=datetime(2026, 2, 3, 4, 5, 6, 789012, UTC),
    start=timedelta(milliseconds=123.456),
    init=timedelta(seconds=7),
    processes=8,
)


def facts(number: int) -> Facts:
    return replace(FACTS, instance=str(uuid.UUID(int=number)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def left(path: Path) -> dict[str, int]:
    """Return what another process finds: how many executions each had."""
    return {each.facts.instance: each.executions for each in Marks.open(path, 1).left.values()}


def test_what_does_nothing_is_found_with_all_that_is_known(path: Path) -> None:
    Marks.open(path, 4).begin(FACTS).idle(5)
    (found,) = Marks.open(path, 4).left.values()
    assert (found.facts, found.executions) == (FACTS, 5)


def test_what_does_something_or_may_is_not_found(path: Path) -> None:
    marks = Marks.open(path, 4)
    marks.begin(facts(1))
    busy, freed, back = (marks.begin(facts(number)) for number in (2, 3, 4))
    for mark in (busy, freed, back):
        mark.idle(1)
    busy.busy()
    freed.free()
    back.busy()
    back.idle(2)
    assert left(path) == {facts(4).instance: 2}


def test_what_was_left_is_found_until_it_is_decided(path: Path) -> None:
    marks = Marks.open(path, 4)
    for number in (1, 2):
        marks.begin(facts(number)).idle(number)
    second = Marks.open(path, 4)
    number, time = FACTS.revision, FACTS.revision_time
    second.decided.add("other")
    assert second.await_decision(number, time, "docker")
    assert not second.await_decision(number, time, "other")
    assert not second.await_decision(number + 1, time, "docker")
    assert not second.await_decision(number, time + timedelta(seconds=1), "docker")
    second.adopt(second.left[facts(1).instance]).free()
    mark = second.adopt(second.left[facts(2).instance])
    assert not second.await_decision(number, time, "docker")
    assert left(path) == {facts(2).instance: 2}
    mark.idle(3)
    assert left(path) == {facts(2).instance: 3}


def test_there_is_room_for_what_is_left_and_as_many_again(path: Path) -> None:
    for generation in (0, 1):
        marks = Marks.open(path, 3)
        for number in range(3):
            marks.begin(facts(1 + 3 * generation + number)).idle(0)
    assert len(left(path)) == 6


def test_a_slot_is_used_again(path: Path) -> None:
    marks = Marks.open(path, 1)
    for number in range(1, 100):
        marks.begin(facts(number)).free()
    marks.begin(facts(100)).idle(0)
    assert list(left(path)) == [facts(100).instance]


def test_without_room_an_instance_is_not_found(path: Path) -> None:
    marks = Marks.open(path, 1)
    held = [marks.begin(facts(number)) for number in range(1, 5)]
    for mark in held:
        mark.idle(1)
    assert len(left(path)) == 2
    for mark in held:
        mark.free()
    assert left(path) == {}
    nowhere = Marks.none().begin(FACTS)
    nowhere.idle(1)
    nowhere.free()


def test_fewer_instances_are_allowed_than_were_left(path: Path) -> None:
    marks = Marks.open(path, 8)
    for number in range(1, 9):
        marks.begin(facts(number)).idle(0)
    assert len(Marks.open(path, 1).left) == 8


def test_nobody_else_may_read_it_and_a_link_is_not_followed(path: Path) -> None:
    Marks.open(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        Marks.open(link, 1)


@given(st.binary(max_size=4 * RECORD_BYTES))
def test_whatever_stands_in_the_file_something_is_made_of_it(content: bytes) -> None:
    for start in (b"", MAGIC):
        memory = bytearray((start + content).ljust(len(MAGIC) + RECORD_BYTES, b"\0"))
        assert Marks(memory).left == {}
        Marks(memory).begin(FACTS).idle(1)
        assert [*Marks(memory).left] == [FACTS.instance]


@given(st.data())
def test_a_byte_that_changed_makes_nothing_up(data: st.DataObject) -> None:
    memory = bytearray(len(MAGIC) + 2 * RECORD_BYTES)
    marks = Marks(memory)
    marks.begin(facts(1)).idle(1)
    marks.begin(facts(2))  # which is busy
    position = data.draw(st.integers(0, len(memory) - 1))
    memory[position] ^= 1 << data.draw(st.integers(0, 7))
    found = Marks(memory).left
    assert [*found] in ([], [facts(1).instance])
    assert all(each.facts == facts(1) for each in found.values())
