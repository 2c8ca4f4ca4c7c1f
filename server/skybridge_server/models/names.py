"""Names of resources, and their ids.

Namespaces are not resources of their own: one exists as soon as a name mentions it.
"""

from __future__ import annotations

import os
import re
import time

from skybridge_server.models.values import value

DEFAULT_NAMESPACE = "default"
ID_PATTERN = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
ID_RULE = "must have 1 to 63 characters of a-z 0-9 -, start with a letter and not end with -"

_DRAWN: list[bytes] = []
"""Randomness for ids to come: who knows an execution's name may follow it, so none can be guessed.

Asking the kernel for each id would let go of the interpreter's lock, for a whole time slice.
"""
_BYTES, _AT_ONCE = 10, 400
os.register_at_fork(after_in_child=_DRAWN.clear)


@value(frozen=True, slots=True, order=True)
class FunctionName:
    """Name of a function."""

    namespace: str
    function: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/functions/{self.function}"


@value(frozen=True, slots=True, order=True)
class RevisionName:
    """Name of a revision of a function."""

    function: FunctionName
    number: int

    def __str__(self) -> str:
        return f"{self.function}/revisions/{self.number}"


@value(frozen=True, slots=True, order=True)
class ExecutionName:
    """Name of an execution."""

    namespace: str
    execution: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/executions/{self.execution}"


@value(frozen=True, slots=True, order=True)
class InstanceName:
    """Name of an instance."""

    namespace: str
    instance: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/instances/{self.instance}"


@value(frozen=True, slots=True, order=True)
class ScheduleName:
    """Name of a schedule."""

    namespace: str
    schedule: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/schedules/{self.schedule}"


@value(frozen=True, slots=True, order=True)
class SecretName:
    """Name of a secret."""

    namespace: str
    secret: str

    def __str__(self) -> str:
        return f"namespaces/{self.namespace}/secrets/{self.secret}"


def new_id() -> str:
    """Return a new time-ordered UUID, version 7 (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(_draw(), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _draw() -> bytes:
    while True:
        try:
            return _DRAWN.pop()
        except IndexError:
            data = os.urandom(_BYTES * _AT_ONCE)
            _DRAWN.extend(data[at : at + _BYTES] for at in range(0, len(data), _BYTES))
