"""Fixtures: a server of a few methods, on the loop of production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

import pytest
import uvloop

from tests.api.wire.wired import Wired, wired


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncGenerator[Wired, None]:
    async with wired() as running:
        yield running
