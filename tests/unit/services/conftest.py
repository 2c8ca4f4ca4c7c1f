"""Fixtures of the tests of services: virtual time, and a whole world in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.services.world import World, world_of


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run coroutines of this folder in virtual time."""
    return {"virtual": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Catch what services log, for tests to look at."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
async def world() -> AsyncGenerator[World, None]:
    async with world_of() as made:
        yield made
