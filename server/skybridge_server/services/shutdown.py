"""Whether the server is to stop, and how."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from skybridge_server.models.shutdown import ShutdownPolicy


class Shutdown:
    """Asked for by a signal or by a caller; the first one counts."""

    def __init__(self, asked: asyncio.Event, grace: timedelta, policy: ShutdownPolicy) -> None:
        """`asked` begins it; `grace` is how long calls and executions may then go on."""
        self.asked = asked
        self.grace = grace
        self.policy = policy

    def request(self, grace: timedelta | None, policy: ShutdownPolicy | None) -> None:
        """Begin it, unless it has begun; None: as configured."""
        if self.asked.is_set():
            return
        self.grace = self.grace if grace is None else grace
        self.policy = policy or self.policy
        self.asked.set()
