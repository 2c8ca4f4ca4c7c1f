"""Waiting for what must come, never for time to pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 120.0
"""Seconds after which something that must happen has not happened. Nothing measures with it."""
PAUSE = 0.05


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Look again and again until a condition holds; AssertionError if it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        time.sleep(PAUSE)


async def until(
    condition: Callable[[], Awaitable[object]], what: str, patience: float = PATIENCE
) -> None:
    """Do the same from a coroutine."""
    try:
        async with asyncio.timeout(patience):
            while not await condition():  # noqa: ASYNC110 - nothing here tells of the change
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        raise AssertionError(f"still waiting for: {what}") from None
