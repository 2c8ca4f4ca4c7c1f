"""What is wrong with a request: all of it, collected field by field."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from skybridge_server.errors import FieldViolation, InvalidArgumentError


class Violations:
    """Collects wrong fields. As a context manager, raises what it has collected at its end."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self._found.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        if self._found:
            raise InvalidArgumentError(*self._found)

    def __iter__(self) -> Iterator[FieldViolation]:
        return iter(self._found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.raise_if_any()


def check_between(
    value: timedelta, low: timedelta, high: timedelta, field: str, wrong: Violations
) -> None:
    """Check that a duration is in [low, high]."""
    if not low <= value <= high:
        wrong.add(field, f"must be between {_text(low)} and {_text(high)}, is {_text(value)}")


def _text(duration: timedelta) -> str:
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + " s"
