"""Fixtures that every layer shares."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

E2E = Path(__file__).parent / "e2e"

# A slow machine is no failure.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace no line of a test that only repeats what others show: tracing doubles its time.

    In e2e/ the code that counts runs in processes of its own, and hypothesis runs each property a
    hundred times.
    """
    for item in items:
        if E2E in item.path.parents or is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("no_cover")


def pytest_collection_finish() -> None:
    """Spare the garbage collector of each test all that was imported and collected before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests start from the defaults, whatever the developer has set."""
    for name in list(os.environ):
        if name.startswith("FAAS_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Tests of Ctrl-C, and the commands they start, need it: in the background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
