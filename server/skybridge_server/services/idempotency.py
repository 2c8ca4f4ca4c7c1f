"""Idempotent requests: a repeat gets the first answer."""

from __future__ import annotations

from datetime import UTC, datetime

from skybridge_server.errors import AlreadyExistsError
from skybridge_server.models.functions import Function
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import RequestRepository
from skybridge_server.services.requests import RequestKey


async def find(requests: RequestRepository, key: RequestKey | None) -> Request | None:
    """Return what was recorded for the first request, if this is a repeat.

    AlreadyExistsError (reason REQUEST_ID_REUSED): the first one asked for something else.
    """
    if key is None:
        return None
    recorded = await requests.find(key.method, key.request_id)
    if recorded is not None and recorded.fingerprint != key.fingerprint:
        raise AlreadyExistsError(
            f"request_id '{key.request_id}' was used for another {key.method}: use a new one",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": key.request_id},
        )
    return recorded


def record(
    key: RequestKey | None, *, resource: str = "", function: Function | None = None
) -> Request | None:
    """Return what to record for a request, with its answer; None if it has no id."""
    if key is None:
        return None
    return Request(
        key.method, key.request_id, key.fingerprint, datetime.now(UTC), resource, function
    )
