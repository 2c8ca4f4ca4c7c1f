"""The last lines of a stream of log entries, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Output
from skybridge_server.services.requests import LogEntry

TAIL_BYTES = 4 * MIB
"""A tail keeps at most about this much, however long its lines are."""
ENTRY_COST = 256
"""What an entry weighs beside its data, about."""


class Tail:
    """Keeps the last `lines` lines of what is added; a last line without an end counts too."""

    def __init__(self, lines: int, room: int = TAIL_BYTES) -> None:
        self._wanted = lines
        self._room = room
        self._entries: deque[LogEntry] = deque()
        self._newlines = 0
        self.size = 0
        """What it weighs in memory, in bytes."""

    def add(self, entry: LogEntry) -> None:
        """Add the next entry, and drop from the front what is too much."""
        self._entries.append(entry)
        self._newlines += _newlines(entry)
        self.size += _weight(entry)
        while len(self._entries) > 1 and self._first_is_too_much():
            first = self._entries.popleft()
            self._newlines -= _newlines(first)
            self.size -= _weight(first)

    def _first_is_too_much(self) -> bool:
        rest = self._newlines - _newlines(self._entries[0])
        return rest > self._wanted or self.size > self._room

    @property
    def lines(self) -> int:
        """How many lines are kept, at most as many as wanted."""
        return min(self._newlines + self._open_line, self._wanted)

    @property
    def _open_line(self) -> int:
        last = _data(self._entries[-1]) if self._entries else b""
        return 0 if not last or last.endswith(b"\n") else 1

    def __iter__(self) -> Iterator[LogEntry]:
        """Yield the entries, the first ones cut to where the lines begin."""
        excess = self._newlines + self._open_line - self._wanted
        for entry in self._entries:
            newlines = _newlines(entry)
            if excess > newlines:
                excess -= newlines  # the lines begin behind it
                continue
            kept = _without_lines(entry, excess)
            excess = 0
            if kept is not None:
                yield kept


def _data(entry: LogEntry) -> bytes:
    return entry.body.data if isinstance(entry.body, Output) else b""


def _weight(entry: LogEntry) -> int:
    return ENTRY_COST + len(_data(entry))


def _newlines(entry: LogEntry) -> int:
    return _data(entry).count(b"\n")


def _without_lines(entry: LogEntry, lines: int) -> LogEntry | None:
    """Return an entry without its first lines; None if nothing is left."""
    if lines <= 0 or not isinstance(entry.body, Output):
        return entry
    start = 0
    for _ in range(lines):
        start = entry.body.data.index(b"\n", start) + 1
    if start == len(entry.body.data):
        return None
    output = entry.body
    return replace(
        entry, body=replace(output, offset=output.offset + start, data=output.data[start:])
    )
