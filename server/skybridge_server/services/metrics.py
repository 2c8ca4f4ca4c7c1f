"""Sums over what functions did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from skybridge_server.models.metrics import FunctionMetrics
from skybridge_server.models.names import FunctionName
from skybridge_server.repositories.base import Repositories


class MetricsService:
    """Sums up executions."""

    def __init__(self, repositories: Repositories) -> None:
        self._repositories = repositories

    async def function(self, name: FunctionName, window: timedelta) -> FunctionMetrics:
        """Sum up the executions of a function over the last `window`. NotFoundError."""
        function = await self._repositories.functions.get(name)
        now = datetime.now(UTC)
        return await self._repositories.executions.metrics(
            function, start_time=now - window, end_time=now
        )
