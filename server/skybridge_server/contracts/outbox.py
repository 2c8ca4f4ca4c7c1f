"""What goes to an instance, so that it is not woken more often than need be.

An instance that sleeps after each request, and is woken for the next, costs the sender a good part
of what the request does. So the first of a round of the event loop is sent at once, and those that
follow it are sent together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Outbox:
    """Has requests to one instance sent, over all connections into it. For the event loop alone."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._round: asyncio.Handle | None = None
        """Its end, once something was sent in it."""

    def send(self, write: Callable[[], None]) -> None:
        """Have a request written now, or at the end of this round."""
        if self._round is None:
            self._round = asyncio.get_running_loop().call_soon(self._end)
            write()
        else:
            self._waiting.append(write)

    def _end(self) -> None:
        self._round = None
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            write()
