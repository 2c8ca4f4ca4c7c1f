"""The program of sandboxes, compiled from sandbox.c by scripts/generate for each architecture."""

from __future__ import annotations

from importlib.resources import files

ARCHITECTURES = ("amd64", "arm64")
"""As engines call them."""


def program_for(architecture: str) -> bytes:
    """Return the executable for one of ARCHITECTURES."""
    return files(__name__).joinpath(f"sandbox.{architecture}").read_bytes()
