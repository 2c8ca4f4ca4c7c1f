"""Rows of new executions, in the forms that nearly all of them have.

To bind a value to a statement costs the sqlite3 module up to four times as much if it is no plain
number or text, and a row has many columns that are NULL. So those that are NULL in all rows of a
form are left out of its statement.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from skybridge_server.repositories.execution_rows import COLUMNS
from skybridge_server.repositories.statements import Insert
from skybridge_server.repositories.tables import ExecutionRow as Row

_NAMES = [column.name for column in COLUMNS]


class Form:
    """Rows in which some columns are NULL."""

    def __init__(self, *nulls: str) -> None:
        """`nulls`: names of columns, two or more."""
        kept = [name for name in _NAMES if name not in nulls]
        self.insert = Insert(Row, (Row.id, *(COLUMNS[_NAMES.index(name)] for name in kept)))
        """Takes the id, and then what `values` returns."""
        self._kept = itemgetter(*map(_NAMES.index, kept))
        self._nulls = itemgetter(*map(_NAMES.index, nulls))
        self._nothing = (None,) * len(nulls)

    def values(self, row: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return what is to be inserted of the values of COLUMNS; None: they have another form."""
        if self._nulls(row) != self._nothing:
            return None
        values: tuple[Any, ...] = self._kept(row)
        return values


_USUAL = (
    "timeout",
    "due_time",
    "not_before",
    "failure_reason",
    "failure_message",
    "failure_signal",
    "exit_code",
    "startup_time",
    "cpu_time",
    "peak_memory_bytes",
    "lease_expire_time",
    "init_time",
)

SUCCEEDED = Form(*_USUAL, "position")
"""Ran straight to a good end."""
QUEUED = Form(*_USUAL, "queue_time", "run_time", "total_time", "start_time", "end_time")
"""Waits for a place."""
ANY = Insert(Row, (Row.id, *COLUMNS))
"""For rows that have no such form."""


def fitting(form: Form, row: tuple[Any, ...]) -> tuple[Insert, tuple[Any, ...]]:
    """Return what inserts the values of COLUMNS, and what it takes after the id."""
    values = form.values(row)
    return (ANY, row) if values is None else (form.insert, values)
