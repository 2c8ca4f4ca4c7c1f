"""Etags: whether somebody else wrote since a caller read."""

from __future__ import annotations

from skybridge_server.errors import AbortedError
from skybridge_server.models.functions import Function
from skybridge_server.models.schedules import Schedule
from skybridge_server.models.secrets import Secret


def check_etag(found: Function | Schedule | Secret, etag: str) -> None:
    """Check that a resource has the etag that its caller expects; '': any. AbortedError."""
    if etag and etag != found.etag:
        noun = type(found).__name__.lower()
        raise AbortedError(
            f"{noun} '{found.name}' was changed since etag {etag}: get it again, then repeat",
            metadata={"etag": found.etag},
        )
