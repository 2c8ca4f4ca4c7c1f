"""Pages of a list, by keyset, and the filters of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import FunctionState

T = TypeVar("T")

Cursor = tuple[str | int, ...]
"""The sort key of the last row of a page, opaque to all but the repository that made it."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items in order, and where the next page starts; `next` is None on the last page."""

    items: tuple[T, ...]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many items, and after which."""

    size: int
    after: Cursor | None = None


@dataclass(frozen=True, slots=True)
class LabelFilter:
    """The label `key` must exist and, unless `value` is None, have this value."""

    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class FunctionQuery:
    """Which functions of a namespace to list, and in which order."""

    namespace: str
    name_prefix: str = ""
    state: FunctionState | None = None
    labels: tuple[LabelFilter, ...] = ()
    order_by: str = "name"
    """`name`, `create_time` or `update_time`."""
    descending: bool = False


@dataclass(frozen=True, slots=True)
class ExecutionQuery:
    """Which executions of a namespace to list, by time of creation."""

    namespace: str
    function: str = ""
    """Id of the function; '' for all."""
    states: frozenset[ExecutionState] = field(default_factory=frozenset)
    """Empty for all."""
    labels: tuple[LabelFilter, ...] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    descending: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Which dead letters of a namespace to list, by the time of their end."""

    namespace: str
    function: str = ""
    """Id of the function; '' for all."""
    reason: FailureReason | None = None
    labels: tuple[LabelFilter, ...] = ()
    ended_from: datetime | None = None
    ended_before: datetime | None = None
    redriven: bool = False
    descending: bool = True


@dataclass(frozen=True, slots=True)
class ScheduleQuery:
    """Which schedules of a namespace to list, by name."""

    namespace: str
    function: str = ""
    """Id of the function; '' for all."""
    paused: bool | None = None
