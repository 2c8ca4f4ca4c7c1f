"""Runs the function as its container does, as a program: no server and no engine is needed."""

from __future__ import annotations

import subprocess
import sys
import unittest
from pathlib import Path

FUNCTION = Path(__file__).with_name("function.py")


def run(given: str) -> tuple[str, str]:
    """What the function writes to stdout and stderr for an input."""
    done = subprocess.run(
        [sys.executable, FUNCTION], input=given, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


class TestFunction(unittest.TestCase):
    def test_greets_every_name(self) -> None:
        output, log = run("Ada\nGrace\n")
        assert output == "Hello, Ada!\nHello, Grace!\n"
        assert log == "names on the input: 2\n"

    def test_greets_the_world_without_names(self) -> None:
        output, _ = run("")
        assert output == "Hello, world!\n"


if __name__ == "__main__":
    unittest.main()
