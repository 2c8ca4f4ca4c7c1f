"""`skybridge-server`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from skybridge_server import __version__, doctor
from skybridge_server.cli import EX_CONFIG, app
from skybridge_server.doctor import Finding, Health
from tests.support.waiting import PATIENCE


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_help_shows_every_command_and_examples() -> None:
    shown = run("--help").output
    for word in ("serve", "migrate", "config", "doctor", "Examples:", "skybridge-server serve"):
        assert word in shown


def test_version() -> None:
    assert run("--version").output == f"{__version__}\n"
    module = [sys.executable, "-m", "skybridge_server", "--version"]
    assert subprocess.check_output(module, text=True, timeout=PATIENCE) == f"{__version__}\n"


def test_config_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_LISTEN", "127.0.0.1:7")
    monkeypatch.setenv("FAAS_LISTNE", "x")
    result = run("config")
    assert result.exit_code == 0
    assert "FAAS_LISTEN                    127.0.0.1:7 " in result.stdout
    assert result.stderr == "warning: FAAS_LISTNE is no setting; did you mean FAAS_LISTEN?\n"


def test_config_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_MAX_PIDS", "7")
    shown = {setting["variable"]: setting for setting in json.loads(run("config", "--json").stdout)}
    assert shown["FAAS_MAX_PIDS"]["value"] == "7"
    assert shown["FAAS_MAX_PIDS"]["source"] == "environment"


@pytest.mark.parametrize("command", ["serve", "migrate", "config"])
def test_wrong_settings_are_lines_not_tracebacks(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("FAAS_MAX_PIDS", "many")
    monkeypatch.setenv("FAAS_ADMIN_LISTEN", "0.0.0.0:1")
    result = run(command)
    assert result.exit_code == EX_CONFIG
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "FAAS_ADMIN_LISTEN",
        "FAAS_MAX_PIDS",
    ]


def test_migrate_makes_and_updates_the_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "skybridge.db"
    monkeypatch.setenv("FAAS_DATABASE", str(path))
    first, second = run("migrate"), run("migrate")
    assert first.output.startswith("applied 0001")
    assert second.output == f"{path} is up to date\n"
    assert path.exists()


def test_migrate_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("no database, but longer than a header of SQLite " * 20)
    monkeypatch.setenv("FAAS_DATABASE", str(path))
    result = run("migrate")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: the database {path} cannot be used")
    monkeypatch.setenv("FAAS_DATABASE", str(path / "below"))
    assert "error: " in run("migrate").stderr


@pytest.fixture
def _logs_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_logs_restored")
@pytest.mark.parametrize(("health", "code"), [(Health.WARNING, 0), (Health.BROKEN, 1)])
def test_doctor(monkeypatch: pytest.MonkeyPatch, health: Health, code: int) -> None:
    async def examine() -> list[Finding]:
        return [Finding("disk", Health.OK, "is big"), Finding("engine", health, "rests", "wake it")]

    monkeypatch.setattr(doctor, "examine", examine)
    result = run("doctor")
    assert result.exit_code == code
    assert result.stdout == (
        f"ok      disk: is big\n{health.value:7} engine: rests\n        -> wake it\n"
    )
    result = run("doctor", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)[1] == {
        "subject": "engine",
        "health": health.value,
        "message": "rests",
        "remedy": "wake it",
    }
