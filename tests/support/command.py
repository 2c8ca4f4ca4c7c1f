"""The `skybridge` command in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import forked
from tests.support.forked import Forked
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
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
        "SKYBRIDGE_ADDRESS": address,
        **more,
    }
    if words[0] in forked.PROGRAMS:
        return _fork(tuple(map(str, words)), environment, given, folder)
    done = subprocess.run(
        words,
        input=given,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _fork(
    words: tuple[str, ...], environment: dict[str, str], given: str, folder: Path | None
) -> Ran:
    with tempfile.TemporaryDirectory() as made:
        out, err = Path(made, "out"), Path(made, "err")
        process = Forked(words, environment, out, err, given=given.encode(), folder=folder)
        try:
            return Ran(process.wait(PATIENCE), out.read_text(), err.read_text())
        finally:
            process.kill()
