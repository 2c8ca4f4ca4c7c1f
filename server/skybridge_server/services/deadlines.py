"""Until when executions wait in the store, in little memory however many they are.

Those of one revision wait equally long each, so their deadlines come in the order of their numbers,
and neighbours share one: who is early is given a hundredth of its time more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from skybridge_server.models.executions import Queued
from skybridge_server.models.names import RevisionName

SHARE = 0.01
"""Part of the time they wait within which those that come share a deadline."""


_Key = tuple[str, RevisionName]


@dataclass(slots=True)
class _Group:
    since: float
    deadline: float
    last: int


class Deadlines:
    """Deadlines by revision. Times are seconds of a clock that only goes forward."""

    def __init__(self) -> None:
        self._groups: dict[_Key, deque[_Group]] = {}

    def add(self, place: Queued, now: float, wait: timedelta) -> None:
        """Note that those up to the last position of a place may wait so long from now on."""
        groups = self._groups.setdefault(_key(place), deque())
        seconds = wait.total_seconds()
        if groups and now - groups[-1].since <= SHARE * seconds:
            groups[-1].deadline, groups[-1].last = now + seconds, place.last
        else:
            groups.append(_Group(now, now + seconds, place.last))

    def take(self, place: Queued) -> float | None:
        """Return the deadline of the one at the last position of a place, which waits no longer.

        Those of its revision that came before it are forgotten.
        """
        groups = self._groups.get(_key(place), deque())
        while groups and groups[0].last < place.last:
            groups.popleft()
        deadline = groups[0].deadline if groups else None
        if groups and groups[0].last == place.last:
            groups.popleft()
        if not groups:
            self._groups.pop(_key(place), None)
        return deadline

    def next(self) -> float | None:
        """Return the earliest deadline."""
        return min((groups[0].deadline for groups in self._groups.values()), default=None)

    def passed(self, now: float) -> Iterator[Queued]:
        """Yield those whose deadlines have passed, by revision, and forget them."""
        for (function_uid, revision), groups in [*self._groups.items()]:
            last = None
            while groups and groups[0].deadline <= now:
                last = groups.popleft().last
            if not groups:
                del self._groups[function_uid, revision]
            if last is not None:
                yield Queued(function_uid, revision, 0, last)


def _key(place: Queued) -> _Key:
    return place.function_uid, place.revision
