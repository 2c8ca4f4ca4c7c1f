"""skybridge.toml: the small file in a folder that says how its function is to run.

    name = "resize"                     # default: the name of the folder

    [function]                          # any keyword of Client.create_function
    description = "Makes pictures small."
    network = "egress"
    memory_bytes = "256MiB"             # sizes and times also in words
    execution_timeout = "2m"
    env = { QUALITY = "80" }
    labels = { team = "blue" }

    [build]
    dockerfile = "Dockerfile"           # without that file nothing is built
    image = "skybridge-local/resize"    # tag of the image that is built
    args = { BASE = "python:3.13-slim" }

All of it may be left out, and so may the file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skybridge_client.cli.text import parse_duration, parse_size
from skybridge_client.specs import PATHS

FILE = "skybridge.toml"

_KEYS = {
    "": ("name", "function", "build"),
    "function": tuple(PATHS),
    "build": ("dockerfile", "image", "args"),
}


_DURATIONS = ("_timeout", "_grace", "_age", "_backoff", "_after")


class ManifestError(ValueError):
    """The file cannot be used; the message names everything that is wrong with it."""


@dataclass(frozen=True)
class Manifest:
    """What a folder says about its function."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    """Keywords of FunctionFields."""
    dockerfile: str = "Dockerfile"
    image: str = ""
    args: dict[str, str] = field(default_factory=dict)


def load(folder: Path) -> Manifest:
    """Reads a folder's file; where there is none, everything is the default.

    Raises ManifestError.
    """
    path = folder / FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: {error}") from None
    _check(path, content)
    build = content.get("build", {})
    return Manifest(
        name=content.get("name", default_name(folder)),
        fields={
            key: _value(path, key, value) for key, value in content.get("function", {}).items()
        },
        dockerfile=build.get("dockerfile", Manifest.dockerfile),
        image=build.get("image", ""),
        args={key: str(value) for key, value in build.get("args", {}).items()},
    )


def default_name(folder: Path) -> str:
    """The folder's name, made into an id of a function."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")


def _check(path: Path, content: dict[str, Any]) -> None:
    """Raises ManifestError that names every key that is unknown or no table."""
    wrong = [f"unknown key {key!r}" for key in content if key not in _KEYS[""]]
    for table in ("function", "build"):
        inside = content.get(table, {})
        if not isinstance(inside, dict):
            wrong.append(f"{table!r} is no table")
            continue
        wrong += [f"unknown key '{table}.{key}'" for key in inside if key not in _KEYS[table]]
    if wrong:
        raise ManifestError(f"{path}: {'; '.join(wrong)}")


def _value(path: Path, key: str, value: Any) -> Any:
    """A value of [function]; sizes and times may be words."""
    parse = _parser(key)
    if parse is None or not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise ManifestError(f"{path}: function.{key}: {error}") from None


def _parser(key: str) -> Any:
    if key.endswith("_bytes"):
        return parse_size
    return parse_duration if key.endswith(_DURATIONS) else None
