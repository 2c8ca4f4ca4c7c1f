"""Runs the command as its users do, in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from skybridge_client.cli.app import app
from tests.client.scripted import Scripted


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def words(self) -> str:
        """stderr without the frame and the line breaks of a usage error."""
        return " ".join(self.stderr.replace("│", " ").split())


def skybridge(server: Scripted | None, *arguments: str, stdin: bytes = b"") -> Ran:
    """Runs a command to its end; anything but an exit is a defect and raised."""
    address = ["--address", server.address] if server else []
    result = CliRunner().invoke(
        app, [*address, *arguments], input=stdin, prog_name="skybridge", catch_exceptions=False
    )
    return Ran(result.exit_code, result.stdout_bytes, result.stderr)
