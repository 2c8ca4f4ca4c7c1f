"""The documents for people say what is true: commands, settings, states, files."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from skybridge.faas.v1.execution_pb2 import ExecutionState, FailureReason
from skybridge_client.cli.app import app as client_app
from skybridge_server.cli import app as server_app
from skybridge_server.config import Settings, load_settings, show, variable_of
from tests.support.documents import DOCUMENTS, README, ROOT, commands

# Defaults that are not the same on every machine.
OF_THE_MACHINE = {
    "FAAS_DATABASE": "`~/.local/state/skybridge/skybridge.db`",
    "FAAS_MAX_CPU_MILLIS": "all cores",
    "FAAS_INSTANCE_MEMORY_BYTES": "3/4 of the machine's",
    "FAAS_INSTANCE_CPU_MILLIS": "16 x all cores",
}
PATHS = re.compile(r"(?<![\w/.])(?:\./)?((?:scripts|examples)/[\w/-]+(?:\.\w+)?)")
TESTS = re.compile(r"`([\w/]+\.py)::(\w+)`")
SETTINGS = re.compile(r"^\| `((?:FAAS|DOCKER)_\w+)` \|(.*?)\|(.*?)\|$", re.MULTILINE)
OTHERS = ("Dockerfile", "compose.yaml", "examples/deployment/*", "scripts/quickstart")


def titles(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", DOCUMENTS, ids=titles(DOCUMENTS))
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", path.read_text())
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=titles(DOCUMENTS))
def test_commands_exist(path: Path) -> None:
    for words in commands(path, "skybridge"):
        check(typer.main.get_command(client_app), words)
    for words in commands(path, "skybridge-server"):
        check(typer.main.get_command(server_app), words)


def check(command: Any, words: list[str]) -> None:
    """Follow the words to a command, and look whether it has the options."""
    rest = words[1:]
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("-")} <= options, words


def test_commands_are_found() -> None:
    assert ["skybridge", "up"] in commands(README, "skybridge")
    assert ["skybridge-server", "doctor"] in commands(README, "skybridge-server")


@pytest.mark.parametrize("path", DOCUMENTS, ids=titles(DOCUMENTS))
def test_scripts_exist(path: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])(?:\./)?((?:scripts|examples)/[\w/-]+(?:\.\w+)?)", path.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_has_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("FAAS_", "DOCKER_")):
            monkeypatch.delenv(name)
    rows = re.findall(
        r"^\| `((?:FAAS|DOCKER)_\w+)` \|(.*?)\|(.*?)\|$", README.read_text(), re.MULTILINE
    )
    written = {name: (default.strip(), meaning.strip()) for name, default, meaning in rows}
    true = {
        setting.variable: (
            OF_THE_MACHINE.get(setting.variable, setting.value and f"`{setting.value}`"),
            setting.description,
        )
        for setting in show(load_settings())
    }
    assert written == true


def test_settings_that_are_named_exist() -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    files = [*DOCUMENTS, *(path for pattern in OTHERS for path in ROOT.glob(pattern))]
    named = {name for path in files for name in re.findall(r"FAAS_[A-Z_]+\b", path.read_text())}
    assert named - known <= {"FAAS_"}


def test_the_tests_of_a_checklist_exist() -> None:
    named = TESTS.findall((ROOT / "docs/http-contract.md").read_text())
    assert len(named) > 10
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"


def test_readme_has_every_state_and_reason() -> None:
    readme = README.read_text()
    for enum in (ExecutionState, FailureReason):
        unset, *names = enum.keys()
        words = [name.removeprefix(unset.removesuffix("UNSPECIFIED")) for name in names]
        assert [word for word in words if not re.search(rf"\b{word}\b", readme)] == []
