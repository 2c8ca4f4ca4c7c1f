"""Compiles the program of sandboxes, with the C compiler that the PyPI package `ziglang` brings.

The program is committed, so that nobody needs a compiler. It holds a fingerprint of what it was
made of, by which one that is out of date is found; where the compiler is at hand, it is made again
and compared byte by byte.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = (
    Path(__file__).resolve().parent.parent
    / "server/skybridge_server/runtimes/docker_engine/program"
)
SOURCE = FOLDER / "sandbox.c"
COMPILER = "0.17.1"
TARGETS = {"amd64": "x86_64-linux-musl", "arm64": "aarch64-linux-musl"}
OPTIONS = [
    "-std=c17",
    "-D_GNU_SOURCE",
    "-static",
    "-s",
    "-Os",
    "-fno-ident",
    "-Wall",
    "-Wextra",
    "-Werror",
]


def program(architecture: str) -> Path:
    """The committed program."""
    return FOLDER / f"sandbox.{architecture}"


def fingerprint() -> str:
    """What the program is made of, and by what."""
    made_of = [SOURCE.read_text(), COMPILER, *OPTIONS, *TARGETS.values()]
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()


def compiler_at_hand() -> bool:
    """Whether the very compiler is installed."""
    try:
        return version("ziglang") == COMPILER
    except PackageNotFoundError:
        return False


def compiled(architecture: str) -> bytes:
    """Compiles the program; the first time takes a minute or two, for the C library."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "sandbox"
        options = [*OPTIONS, "-target", TARGETS[architecture], f'-DSOURCE="{fingerprint()}"']
        command = [sys.executable, "-m", "ziglang", "cc", *options, "-o", str(target)]
        subprocess.run([*command, str(SOURCE)], check=True, cwd=folder)
        return target.read_bytes()


def stale() -> list[Path]:
    """The programs that are not what the source says, or not there."""
    compare = _is_reproduced if compiler_at_hand() else _is_up_to_date
    return [program(each) for each in TARGETS if not compare(each)]


def update() -> None:
    """Makes those again that are stale; exits where there is no compiler."""
    if not stale():
        return
    if not compiler_at_hand():
        sys.exit(f"generate: .venv/bin/pip install ziglang=={COMPILER}, which compiles {SOURCE}")
    for architecture in TARGETS:
        program(architecture).write_bytes(compiled(architecture))


def _is_up_to_date(architecture: str) -> bool:
    path = program(architecture)
    return path.exists() and f"source:{fingerprint()}".encode() in path.read_bytes()


def _is_reproduced(architecture: str) -> bool:
    return _is_up_to_date(architecture) and program(architecture).read_bytes() == compiled(
        architecture
    )
