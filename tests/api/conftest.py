"""Fixtures of the API tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.api.served import Served, serve
from tests.api.tiny import Tiny, tiny_server


@pytest.fixture
async def tiny() -> AsyncGenerator[Tiny, None]:
    async with tiny_server() as running:
        yield running


@pytest.fixture
async def served() -> AsyncGenerator[Served, None]:
    async with serve() as running:
        yield running
