"""Forgets what has had its time: requests, executions with their journals, revisions.

All of it goes in small batches, and between two of them others have the store for as long as a
batch took. So the busier the store is, the slower this is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import NotFoundError
from skybridge_server.models.functions import Retention
from skybridge_server.models.names import FunctionName
from skybridge_server.repositories.base import Repositories

BATCH = 100
"""Rows of what is asked for that are deleted in one transaction."""

log = structlog.get_logger(__name__)


class RetentionService:
    """Keeps to what the operator allows, and functions ask for."""

    def __init__(self, repositories: Repositories, most: Retention, request_age: timedelta) -> None:
        """Take the most that is kept of each function, and of a request id."""
        self._repositories = repositories
        self._most = most
        self._request_age = request_age

    async def forget_requests(self) -> None:
        """Forget old request ids."""

        async def step() -> int:
            before = datetime.now(UTC) - self._request_age
            return await self._repositories.requests.prune(before, limit=BATCH)

        await _in_batches(step)

    async def delete_executions(self) -> None:
        """Delete executions that are too old, or too many."""
        for name in await self._repositories.executions.function_names():
            await self._delete_executions_of(name)

    async def _delete_executions_of(self, name: FunctionName) -> None:
        kept = await self._kept_of(name)

        async def step() -> int:
            return await self._repositories.executions.prune(
                name,
                ended_before=datetime.now(UTC) - kept.execution_age,
                keep=kept.executions,
                limit=BATCH,
            )

        if count := await _in_batches(step):
            log.info("executions deleted", function=str(name), count=count)

    async def delete_revisions(self) -> None:
        """Delete revisions that are too many."""
        for name in await self._repositories.functions.names():
            await self._delete_revisions_of(name)

    async def _delete_revisions_of(self, name: FunctionName) -> None:
        kept = await self._kept_of(name)

        async def step() -> int:
            return await self._repositories.revisions.prune(name, keep=kept.revisions, limit=BATCH)

        if count := await _in_batches(step):
            log.info("revisions deleted", function=str(name), count=count)

    async def give_space_back(self) -> None:
        """Erase what was deleted, and give its space back to the file system."""
        await _in_batches(self._repositories.tidy)

    async def _kept_of(self, name: FunctionName) -> Retention:
        """Return what is kept of a function, and of one that is gone."""
        try:
            wanted = (await self._repositories.functions.get(name)).spec.retention
        except NotFoundError:
            return self._most
        most = self._most
        return Retention(
            execution_age=min(wanted.execution_age or most.execution_age, most.execution_age),
            executions=min(wanted.executions or most.executions, most.executions),
            revisions=min(wanted.revisions or most.revisions, most.revisions),
        )


async def _in_batches(step: Callable[[], Awaitable[int]]) -> int:
    """Repeat a step until it finds nothing to do; return the sum of what it did."""
    loop = asyncio.get_running_loop()
    total = 0
    while True:
        began = loop.time()
        done = await step()
        if not done:
            return total
        total += done
        await asyncio.sleep(loop.time() - began)
