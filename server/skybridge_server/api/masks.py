"""`update_mask`: which fields of a function an update changes.

A path is a field of what users write of a function: `description`, `labels`, `spec`, or any below
`spec`. The domain's dataclasses name their fields as the messages do, so they tell the paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.models.functions import Function, FunctionSpec
from skybridge_server.services.requests import FunctionDraft
from skybridge_server.services.rules import Violations

D = TypeVar("D")


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(value):
        yield prefix + field.name
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from _paths(inner, f"{prefix}{field.name}.")


_PATHS = frozenset(_paths(FunctionDraft(FunctionSpec(image=""))))
_ALL = frozenset(path for path in _PATHS if "." not in path)
_READ_ONLY = frozenset(pb.Function.DESCRIPTOR.fields_by_name) - _ALL
_GROUPS = frozenset(path.rpartition(".")[0] for path in _PATHS - _ALL)


def update_paths(mask: Sequence[str], function: pb.Function, wrong: Violations) -> frozenset[str]:
    """Return the paths that an update changes: those of the mask or, without one, those set."""
    if not mask:
        return frozenset(_set_paths(function))
    if list(mask) == ["*"]:
        return _ALL
    if len(mask) > len(_PATHS):
        wrong.add("update_mask", f"must have at most {len(_PATHS)} paths, has {len(mask)}")
        return frozenset()
    for path, count in Counter(mask).items():
        if path not in _PATHS:
            wrong.add("update_mask", _refusal(path))
        elif count > 1:
            wrong.add("update_mask", f"has '{path}' more than once")
    return frozenset(mask)


def concerns(paths: frozenset[str], field: str) -> bool:
    """Tell whether a field, as a violation names it, is one that the paths change."""
    path = field.removeprefix("function.").partition("[")[0]
    while path and path not in paths:
        path = path.rpartition(".")[0]
    return bool(path)


def merge(function: Function, wanted: FunctionDraft, paths: frozenset[str]) -> FunctionDraft:
    """Return what there is of a function, with the fields at `paths` as wanted."""
    current = FunctionDraft(function.spec, function.description, function.labels)
    return _merge(current, wanted, paths, "")


def _merge(current: D, wanted: D, paths: frozenset[str], prefix: str) -> D:
    changes: dict[str, object] = {}
    for field in fields(current):  # type: ignore[arg-type] # always one of our dataclasses
        path, new = prefix + field.name, getattr(wanted, field.name)
        if path in paths:
            changes[field.name] = new
        elif path in _GROUPS:
            changes[field.name] = _merge(getattr(current, field.name), new, paths, f"{path}.")
    return replace(current, **changes)  # type: ignore[type-var]


def _set_paths(message: Message, prefix: str = "") -> Iterator[str]:
    for field, value in message.ListFields():
        path = prefix + field.name
        if path in _GROUPS:
            yield from _set_paths(value, f"{path}.")
        elif path in _PATHS:
            yield path


def _refusal(path: str) -> str:
    if path == "*":
        return "has '*' beside other paths"
    if path.partition(".")[0] in _READ_ONLY:
        return f"has {path[:63]!r}, which cannot be changed"
    return f"has {path[:63]!r}, which is no field of a function"
