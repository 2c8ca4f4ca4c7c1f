"""Values: dataclasses that never change, and are quick to make.

What a frozen dataclass does at runtime to stay as it is makes it take five times as long to make,
and thousands are made each second. So that is left to mypy, which sees all of our code, and takes
`@value(frozen=True, slots=True)` for what it looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool, **options: Any) -> Any:
        """Return a decorator as `dataclass` does; `frozen` makes it hashable."""
        return dataclass(slots=slots, unsafe_hash=frozen, **options)
