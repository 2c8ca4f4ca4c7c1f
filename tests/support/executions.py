"""What tests ask a store about executions."""

from __future__ import annotations

from collections.abc import Sequence

from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.paging import Cursor, ExecutionQuery, PageRequest
from skybridge_server.repositories.base import Repositories

UNFINISHED = frozenset(state for state in ExecutionState if not state.final)


async def unfinished(store: Repositories) -> Sequence[Execution]:
    """Return all executions that have not ended, the oldest first."""
    query = ExecutionQuery("default", states=UNFINISHED, descending=False)
    found: list[Execution] = []
    after: Cursor | None = None
    while True:
        page = await store.executions.list(query, PageRequest(1000, after))
        found += page.items
        if page.next is None:
            return found
        after = page.next
