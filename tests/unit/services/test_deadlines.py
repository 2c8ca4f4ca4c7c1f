"""Until when executions wait in the store."""

from __future__ import annotations

from datetime import timedelta

from skybridge_server.models.executions import Queued
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.services.deadlines import Deadlines

MINUTE = timedelta(minutes=1)


def place(last: int, revision: int = 1) -> Queued:
    return Queued("uid", RevisionName(FunctionName("default", "f"), revision), 1, last)


def test_who_waits_for_too_long_is_found_by_revision() -> None:
    deadlines = Deadlines()
    deadlines.add(place(1), 0, MINUTE)
    deadlines.add(place(2, revision=2), 0, 2 * MINUTE)
    deadlines.add(place(3), 10, MINUTE)
    assert deadlines.next() == 60
    assert list(deadlines.passed(59)) == []
    assert [(each.revision.number, each.last) for each in deadlines.passed(65)] == [(1, 1)]
    assert deadlines.next() == 70
    passed = {each.revision.number: each.last for each in deadlines.passed(500)}
    assert passed == {1: 3, 2: 2}
    assert deadlines.next() is None


def test_neighbours_share_a_deadline_and_none_is_too_early() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.add(place(number), number / 1000, MINUTE)
    assert sum(len(groups) for groups in deadlines._groups.values()) < 20
    for number in (0, 1, 77, 9999):
        deadline = deadlines.take(place(number))
        assert deadline is not None
        assert number / 1000 + 60 <= deadline <= number / 1000 + 60.6
    assert deadlines.next() is None


def test_who_is_not_known_has_none() -> None:
    assert Deadlines().take(place(1)) is None
