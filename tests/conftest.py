"""Fixtures that every layer shares."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A slow machine is no failure.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start from the defaults, whatever the developer has set."""
    for name in list(os.environ):
        if name.startswith("FAAS_"):
            monkeypatch.delenv(name)
