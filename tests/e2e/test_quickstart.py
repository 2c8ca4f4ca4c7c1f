"""The first command of a newcomer, run twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Ran, run
from tests.support.documents import ROOT
from tests.support.ports import free_port
from tests.support.server import Server

pytestmark = pytest.mark.docker


def quickstart(*words: str, **environment: str) -> Ran:
    return run("", "scripts/quickstart", *words, folder=ROOT, **environment)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Lead it away from what a user of this clone has."""
    pid_file = ROOT / ".skybridge/server.pid"
    if pid_file.exists() and Path("/proc", pid_file.read_text().strip()).exists():
        pytest.fail("this clone's server is in use: stop it with scripts/quickstart --stop")
    yield {
        "FAAS_LISTEN": f"127.0.0.1:{free_port()}",
        "FAAS_METRICS_LISTEN": "",
        "FAAS_DATABASE": str(tmp_path / "skybridge.db"),
    }
    quickstart("--stop")


def test_ends_with_live_output_twice(settings: dict[str, str]) -> None:
    for _ in range(2):
        done = quickstart(**settings)
        assert done.code == 0, done.err
        assert "Hello, Ada!\n" in done.out
        assert "Hello, Grace!\nHello, Alan!\nHello, Barbara!\n" in done.out
        assert f"export SKYBRIDGE_ADDRESS={settings['FAAS_LISTEN']}" in done.out
    assert "using the server that runs since the last time" in done.err

    assert quickstart("--stop").code == 0
    again = quickstart("--stop")
    assert (again.code, again.err) == (1, "quickstart: this clone has no server running\n")


def test_does_not_take_another_server_for_its_own(settings: dict[str, str], server: Server) -> None:
    done = quickstart(**settings | {"FAAS_LISTEN": server.address})
    assert done.code == 1
    assert f"cannot listen on {server.address}" in done.err
