"""Idempotent requests: what was asked under a request id, and the first answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from skybridge_server.models.functions import Function


@dataclass(frozen=True, slots=True)
class Request:
    """A mutation under a request id. The pair of `method` and `request_id` is unique."""

    method: str
    """Name of the rpc, such as `CreateFunction`."""
    request_id: str
    fingerprint: str
    """Hash of what was asked: a repeat with another one is an error."""
    create_time: datetime
    resource: str = ""
    """Name of the resource that the request made: a revision or an execution."""
    function: Function | None = None
    """The first answer of a request that changes a function."""
