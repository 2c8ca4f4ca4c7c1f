"""Forgets what has had its time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import StorageError
from skybridge_server.repositories.base import RequestRepository

INTERVAL = timedelta(minutes=10)

log = structlog.get_logger(__name__)


class Housekeeping:
    """Tidies the store now and then."""

    def __init__(self, requests: RequestRepository, request_retention: timedelta) -> None:
        self._requests = requests
        self._request_retention = request_retention
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start to tidy."""
        self._task = asyncio.create_task(self._tidy_for_ever())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _tidy_for_ever(self) -> None:
        while True:
            try:
                await self._requests.prune(datetime.now(UTC) - self._request_retention)
            except StorageError as error:
                log.warning("request ids not pruned", detail=error.message)
            except Exception:
                log.exception("housekeeping broke")
            await asyncio.sleep(INTERVAL.total_seconds())
