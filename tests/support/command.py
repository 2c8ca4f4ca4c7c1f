"""The `skybridge` command in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program left."""

    code: int
    out: str
    err: str


def run(
    address: str, *words: str | Path, given: str = "", folder: Path | None = None, **more: str
) -> Ran:
    """Run a program to its end, next to our commands; `more` are environment variables."""
    done = subprocess.run(
        words,
        input=given,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "SKYBRIDGE_ADDRESS": address,
            **more,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
