"""Memory for requests: all that callers have sent, and that calls still work on."""

from __future__ import annotations

from datetime import timedelta

from skybridge_server.api.errors import DETAILS_KEY, status_of
from skybridge_server.api.wire.status import CallError
from skybridge_server.errors import ResourceExhaustedError

MAX_HELD_BYTES = 512 * 1024 * 1024
"""Far more than calls need at once; without a bound, few callers could take all memory."""
RETRY_AFTER = timedelta(seconds=1)


class Room:
    """What there is of it. For the event loop alone."""

    def __init__(self) -> None:
        self._held = 0

    def take(self, size: int) -> None:
        """Take room for what has come. CallError: there is none, until other calls end."""
        if self._held + size > MAX_HELD_BYTES:
            raise _full(self._held)
        self._held += size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._held -= size


def _full(held: int) -> CallError:
    error = ResourceExhaustedError(
        f"the requests that are under way have {held} bytes already: come back later",
        subject="requests",
        retry_after=RETRY_AFTER,
        reason="REQUESTS_TOO_LARGE",
    )
    status = status_of(error, request_id="")
    return CallError(status.code, status.message, ((DETAILS_KEY, status.details),))
