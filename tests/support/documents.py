"""What the documents for people say: their commands and code, to be held to it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("*.md", "client/*.md", "docs/**/*.md", "examples/**/*.md")
DOCUMENTS = sorted(path for pattern in PLACES for path in ROOT.glob(pattern))
README = ROOT / "README.md"

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    found = _BLOCK.findall(path.read_text())
    return [text for _, word, text in found if word == language]


def commands(path: Path, program: str) -> list[list[str]]:
    """Return the words of every command of the shell blocks that a program carries out."""
    found = []
    for block in blocks(path, "sh"):
        joined = _HERE_DOCUMENT.sub("", block).replace("\\\n", " ")
        for line in joined.splitlines():
            for part in re.split(r"[|;]|\$\(|&&", line):
                words = shlex.split(part.rstrip(")"), comments=True)
                while words and "=" in words[0]:
                    words.pop(0)  # a variable for this command alone
                if words and words[0] == program:
                    found.append(words)
    return found
