"""Idempotent requests: a repeat gets the first answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from skybridge_server.errors import AlreadyExistsError, SkybridgeError
from skybridge_server.models.functions import Function
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import RequestRepository
from skybridge_server.services.requests import RequestKey

T = TypeVar("T")


async def once(
    requests: RequestRepository,
    key: RequestKey | None,
    do: Callable[[], Awaitable[T]],
    repeat: Callable[[Request], Awaitable[T]],
) -> T:
    """Do what is asked for, and record it; if it was done before, return `repeat` of the record.

    AlreadyExistsError (reason REQUEST_ID_REUSED): the first one asked for something else.
    """
    if (recorded := await _find(requests, key)) is not None:
        return await repeat(recorded)
    try:
        return await do()
    except SkybridgeError:
        # The first request may be done since, and be the very reason why this one fails.
        if (recorded := await _find(requests, key)) is None:
            raise
        return await repeat(recorded)


async def _find(requests: RequestRepository, key: RequestKey | None) -> Request | None:
    if key is None:
        return None
    recorded = await requests.find(key.method, key.request_id)
    if recorded is not None:
        check_same(key, recorded.fingerprint)
    return recorded


def check_same(key: RequestKey, fingerprint: str) -> None:
    """Raise AlreadyExistsError unless the first request of this id asked for the same."""
    if key.fingerprint != fingerprint:
        raise AlreadyExistsError(
            f"request_id '{key.request_id}' was used for another {key.method}: use a new one",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": key.request_id},
        )


def record(
    key: RequestKey | None, *, resource: str = "", function: Function | None = None
) -> Request | None:
    """Return what to record for a request, with its answer; None if it has no id."""
    if key is None:
        return None
    return Request(
        key.method, key.request_id, key.fingerprint, datetime.now(UTC), resource, function
    )
