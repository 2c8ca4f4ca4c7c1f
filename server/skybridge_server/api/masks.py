"""`update_mask`: which fields of a function or a schedule an update changes.

A path is a field of what users write, such as `description`, `labels`, `spec`, or any below `spec`.
The domain's dataclasses name their fields as the messages do, so they tell the paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from skybridge.faas.v1 import function_pb2, schedule_pb2
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import FunctionName
from skybridge_server.models.schedules import ScheduleSpec
from skybridge_server.services.requests import FunctionDraft
from skybridge_server.services.violations import Violations

D = TypeVar("D")


class Mask(Generic[D]):
    """The paths of one kind of resource."""

    def __init__(self, noun: str, sample: D, message: type[Message]) -> None:
        """`sample`: any value of what users write."""
        self._noun = noun
        self._paths = frozenset(_paths(sample, message.DESCRIPTOR))
        self._all = frozenset(path for path in self._paths if "." not in path)
        self._read_only = frozenset(message.DESCRIPTOR.fields_by_name) - self._all
        self._groups = frozenset(path.rpartition(".")[0] for path in self._paths - self._all)

    def paths(self, mask: Sequence[str], message: Message, wrong: Violations) -> frozenset[str]:
        """Return the paths that an update changes: those of the mask or, without one, those set."""
        if not mask:
            return frozenset(self._set_paths(message))
        if list(mask) == ["*"]:
            return self._all
        if len(mask) > len(self._paths):
            wrong.add("update_mask", f"must have at most {len(self._paths)} paths, has {len(mask)}")
            return frozenset()
        for path, count in Counter(mask).items():
            if path not in self._paths:
                wrong.add("update_mask", self._refusal(path))
            elif count > 1:
                wrong.add("update_mask", f"has '{path}' more than once")
        return frozenset(mask)

    def concerned(self, paths: frozenset[str], found: Violations, wrong: Violations) -> None:
        """Add those violations that were found in fields which the paths change."""
        for violation in found:
            if self.concerns(paths, violation.field):
                wrong.add(violation.field, violation.description)

    def concerns(self, paths: frozenset[str], field: str) -> bool:
        """Tell whether a field, as a violation names it, is one that the paths change."""
        path = field.removeprefix(f"{self._noun}.").partition("[")[0]
        while path and path not in paths:
            path = path.rpartition(".")[0]
        return bool(path)

    def merge(self, current: D, wanted: D, paths: frozenset[str]) -> D:
        """Return what there is, with the fields at `paths` as wanted."""
        merged: D = self._merge(current, wanted, paths, "")
        return merged

    def _merge(self, current: Any, wanted: Any, paths: frozenset[str], prefix: str) -> Any:
        changes: dict[str, object] = {}
        for field in fields(current):
            path, new = prefix + field.name, getattr(wanted, field.name)
            if path in paths:
                changes[field.name] = new
            elif path in self._groups:
                old = getattr(current, field.name)
                changes[field.name] = self._merge(old, new, paths, f"{path}.")
        return replace(current, **changes)

    def _set_paths(self, message: Message, prefix: str = "") -> Iterator[str]:
        for field, value in message.ListFields():
            path = prefix + field.name
            if path in self._groups:
                yield from self._set_paths(value, f"{path}.")
            elif path in self._paths:
                yield path

    def _refusal(self, path: str) -> str:
        if path == "*":
            return "has '*' beside other paths"
        if path.partition(".")[0] in self._read_only:
            return f"has {path[:63]!r}, which cannot be changed"
        return f"has {path[:63]!r}, which is no field of a {self._noun}"


def _paths(value: Any, message: Any, prefix: str = "") -> Iterator[str]:
    """Yield the paths of a dataclass and of its dataclasses that `message` has as messages, too."""
    for field in fields(value):
        path, inner = prefix + field.name, getattr(value, field.name)
        yield path
        inner_message = message.fields_by_name[field.name].message_type
        if inner_message is not None and is_dataclass(inner):
            yield from _paths(inner, inner_message, f"{path}.")


FUNCTION = Mask("function", FunctionDraft(FunctionSpec(image="")), function_pb2.Function)
SCHEDULE = Mask("schedule", ScheduleSpec(FunctionName("", "")), schedule_pb2.Schedule)
