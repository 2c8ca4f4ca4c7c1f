"""Whether the peer is still there, and whether it asks that of us too often."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import BadConnectionError, ErrorCode

PING_AFTER = 30.0
"""Seconds of silence after which the peer is asked."""

ANSWER_WITHIN = 10.0
"""Seconds in which it must answer."""

MIN_PING_INTERVAL = 9.0
"""Seconds between two PINGs of a peer that gets no response meanwhile.

Peers may send one each 10 seconds, and the network brings some of them closer together.
"""

MAX_STRIKES = 2
"""PINGs that may come too early; gRPC's own servers forgive as many."""


class Keepalive:
    """Asks a peer that is silent, and cuts it off if it does not answer."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        write: Callable[[bytes], None],
        cut: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._write = write
        self._cut = cut
        self._heard = True
        self._pinged_at = -math.inf
        self._strikes = 0
        self._timer = loop.call_later(PING_AFTER, self._look)

    def heard(self) -> None:
        """Take note that something came."""
        self._heard = True

    def sent(self) -> None:
        """Take note that headers or data went out: some clients ask after each of these."""
        self._strikes = 0
        self._pinged_at = -math.inf

    def pinged(self) -> None:
        """Count a PING of the peer. BadConnectionError: there were too many."""
        now = self._loop.time()
        if now - self._pinged_at < MIN_PING_INTERVAL:
            self._strikes += 1
        self._pinged_at = now
        if self._strikes > MAX_STRIKES:
            # The words by which gRPC's clients know that they are to ping less.
            raise BadConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")

    def close(self) -> None:
        """Ask no more."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._heard:
            self._heard = False
            self._timer = self._loop.call_later(PING_AFTER, self._look)
        else:
            self._write(frames.ping(b"skybridg"))
            self._timer = self._loop.call_later(ANSWER_WITHIN, self._decide)

    def _decide(self) -> None:
        if self._heard:
            self._timer = self._loop.call_later(PING_AFTER, self._look)
        else:
            self._cut()
