"""The server as it was before the last change of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.documents import ROOT

SOURCES = ("server", "generated")


def previous_server(folder: Path) -> dict[str, str]:
    """Unpack it; return the environment in which a server is that one.

    Where the history is cut off there is none: then it is the one of today.
    """
    commits = _git("rev-list", "--max-count=2", "HEAD", "--", "server").decode().split()
    if len(commits) < 2:
        return {}
    folder.mkdir()
    archive = _git("archive", commits[1], *SOURCES)
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive, check=True)
    environment = {"PYTHONPATH": ":".join(str(folder / source) for source in SOURCES)}
    program = "import skybridge_server; print(skybridge_server.__file__)"
    command = [sys.executable, "-c", program]
    found = subprocess.check_output(command, env=os.environ | environment, text=True)
    assert found.startswith(str(folder)), found
    return environment


def _git(*words: str) -> bytes:
    return subprocess.check_output(["git", "-C", str(ROOT), *words])
