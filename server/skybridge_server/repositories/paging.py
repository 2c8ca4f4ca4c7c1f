"""Pages by keyset: their cost does not depend on how deep they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from skybridge_server.models.paging import Cursor, Page

T = TypeVar("T")


def page_of(items: Sequence[T], size: int, cursor: Callable[[T], Cursor]) -> Page[T]:
    """Return a page of `items`, which hold one item more if there is a next page."""
    kept = tuple(items[:size])
    more = len(items) > size
    return Page(kept, cursor(kept[-1]) if more else None)
