"""Memory for requests: all that callers have sent, and that calls still work on."""

from __future__ import annotations

import grpc

from skybridge_server.api.wire.status import CallError

MAX_HELD_BYTES = 512 * 1024 * 1024
"""Far more than calls need at once; without a bound, few callers could take all memory."""


class Room:
    """What there is of it. For the event loop alone."""

    def __init__(self) -> None:
        self._held = 0

    def take(self, size: int) -> None:
        """Take room for what has come. CallError: there is none, until other calls end."""
        if self._held + size > MAX_HELD_BYTES:
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the requests that are under way have {self._held} bytes already: come back later",
            )
        self._held += size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._held -= size
