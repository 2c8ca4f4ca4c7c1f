"""`skybridge-server backup` and `restore`: what they print, and their exit codes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skybridge_server.cli import EX_CONFIG, app


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "skybridge.db"
    monkeypatch.setenv("FAAS_DATABASE", str(path))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.db"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_for_people(database: Path, file: Path) -> None:
    run("migrate")
    made = run("backup", file)
    assert made.stdout.startswith(f"{file}: 0 executions, 0 functions, ")
    assert made.stderr == "", "progress is for terminals"
    restored = run("restore", file)
    assert restored.exit_code == 0
    first, second = restored.stdout.splitlines()
    assert first.startswith(f"{database}: 0 executions, ")
    assert second.startswith(f"the database that was there is kept: {database}.replaced-")


def test_the_key_of_secrets_is_not_forgotten(database: Path, file: Path) -> None:
    run("migrate")
    with closing(sqlite3.connect(database)) as connection, connection:
        row = "(1, 'default', 'db', x'00', 1, 0, 0, 'e')"
        connection.execute(f"INSERT INTO secrets VALUES {row}")
    made, restored = run("backup", file), run("restore", file)
    key = f"{database}-key"
    assert f"not in it: {key}, the key of its secrets" in made.stderr.replace("\n", "")
    assert made.stdout.startswith(str(file))
    assert f"its secrets need the key of its time: {key}" in restored.stderr.replace("\n", "")


def test_for_programs(database: Path, file: Path) -> None:
    run("migrate")
    made = json.loads(run("backup", "--json", file).stdout)
    assert made["path"] == str(file)
    database.unlink()
    restored = json.loads(run("restore", "--json", "--sha256", made["sha256"], file).stdout)
    assert restored == {"database": {**made, "path": str(database)}, "replaced": ""}


def test_what_fails_is_a_line_and_an_exit_code(file: Path) -> None:
    for command, said in (("backup", "there is no database"), ("restore", "there is no file")):
        failed = run(command, file)
        assert failed.exit_code == 1
        assert failed.stderr.startswith(f"error: {said}")
        assert failed.stdout == ""


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setenv("FAAS_MAX_PIDS", "many")
    for command in ("backup", "restore"):
        assert run(command, file).exit_code == EX_CONFIG


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_help_has_examples(command: str) -> None:
    shown = run(command, "--help").output
    assert "Examples:" in shown
    assert f"skybridge-server {command}" in shown
