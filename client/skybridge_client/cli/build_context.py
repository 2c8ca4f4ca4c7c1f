"""Packs a folder for a build, without what its .dockerignore names."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

IGNORE_FILE = ".dockerignore"

# Packed folders up to this size stay in memory.
_IN_MEMORY = 8 * 1024 * 1024

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[\^?[^]]+\]|\\.|.", re.DOTALL)
_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Rule:
    """One line of a .dockerignore."""

    pattern: re.Pattern[str]
    keep: bool
    """Whether the line starts with `!`: what it matches is packed after all."""


def pack(folder: Path, dockerfile: str) -> IO[bytes]:
    """A tar file of a folder, at its start, ready to be sent.

    The Dockerfile and .dockerignore are always in it. Owners are root, and everyone may read, and
    run what its owner may run: functions do not run as root, whatever the umask of this shell.
    """
    rules = parse_rules(_read_ignore_file(folder))
    packed = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(folder, folder, rules, {dockerfile, IGNORE_FILE}):
            name = path.relative_to(folder).as_posix()
            tar.add(path, arcname=name, recursive=False, filter=_for_everyone)
    packed.seek(0)
    return packed


def parse_rules(lines: str) -> list[Rule]:
    """The rules of a .dockerignore."""
    rules = []
    for line in lines.splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        keep = text.startswith("!")
        path = PurePosixPath("/", text.removeprefix("!").strip())
        # PurePosixPath leaves `..` in place: it could only point out of the folder.
        rules.append(Rule(_compile(str(path).lstrip("/")), keep))
    return rules


def is_ignored(name: str, rules: list[Rule]) -> bool:
    """Whether a path is left out: the last rule that matches it or a folder above it wins."""
    ignored = False
    parts = name.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    for rule in rules:
        if rule.keep is ignored and any(rule.pattern.fullmatch(each) for each in above):
            ignored = not rule.keep
    return ignored


def _compile(pattern: str) -> re.Pattern[str]:
    parts = []
    for token in _TOKEN.findall(pattern):
        if token in _WILDCARDS:
            parts.append(_WILDCARDS[token])
        elif token.startswith("[") and token.endswith("]") and len(token) > 2:
            parts.append(token)
        else:
            parts.append(re.escape(token[-1]))
    return re.compile("".join(parts), re.DOTALL)


def _files(folder: Path, root: Path, rules: list[Rule], always: set[str]) -> Iterator[Path]:
    """Everything to pack, in a stable order; ignored folders are searched only if need be."""
    keeps = any(rule.keep for rule in rules)
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        ignored = is_ignored(name, rules) and name not in always
        if not ignored:
            yield path
        holds_more = keeps or any(each.startswith(f"{name}/") for each in always)
        if path.is_dir() and not path.is_symlink() and (not ignored or holds_more):
            yield from _files(path, root, rules, always)


def _for_everyone(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o555 if entry.isdir() or entry.mode & 0o100 else 0o444
    return entry if entry.isfile() or entry.isdir() or entry.issym() or entry.islnk() else None


def _read_ignore_file(folder: Path) -> str:
    path = folder / IGNORE_FILE
    return path.read_text(encoding="utf-8") if path.exists() else ""
