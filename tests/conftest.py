"""Fixtures that every layer shares."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start from the defaults, whatever the developer has set."""
    for name in list(os.environ):
        if name.startswith("FAAS_"):
            monkeypatch.delenv(name)
