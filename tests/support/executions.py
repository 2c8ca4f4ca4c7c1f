"""What tests ask a store about executions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from skybridge_server.models.executions import Execution
from skybridge_server.repositories.base import Repositories

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


async def unfinished(store: Repositories) -> Sequence[Execution]:
    """Take over all executions that have not ended, as a server does at its start."""
    return await store.executions.take_over("test", now=LONG_AGO, expire_time=LONG_AGO)
