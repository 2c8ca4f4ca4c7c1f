"""Requests under way whose record is not in the store yet: a repeat finds the first one here."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from skybridge_server.services import idempotency
from skybridge_server.services.requests import RequestKey

T = TypeVar("T")


class Claims(Generic[T]):
    """Who serves which request, and what came of it. For the event loop alone."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], tuple[str, asyncio.Future[T]]] = {}

    async def claim(self, key: RequestKey) -> T | None:
        """Return what the first request of this id was answered; None: this is the first.

        Then `grant` or `release` must follow. AlreadyExistsError: the first asked for something
        else.
        """
        name = (key.method, key.request_id)
        while (found := self._claims.get(name)) is not None:
            fingerprint, granted = found
            idempotency.check_same(key, fingerprint)
            await asyncio.wait({granted})
            if not granted.cancelled():
                return granted.result()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._claims[name] = (key.fingerprint, future)
        return None

    def grant(self, key: RequestKey, answer: T) -> None:
        """Answer repeats with this, until the claim is released."""
        self._claims[key.method, key.request_id][1].set_result(answer)

    def release(self, key: RequestKey) -> None:
        """Let repeats look in the store; who waits tries again if nothing was granted."""
        _, granted = self._claims.pop((key.method, key.request_id))
        granted.cancel()
