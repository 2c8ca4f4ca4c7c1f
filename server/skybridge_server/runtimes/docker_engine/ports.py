"""The TCP ports on the loopback of one network namespace, whichever way there is to them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from skybridge_server.runtimes.base import Listener

LOOPBACK = "127.0.0.1"
BACKLOG = 128

Accepted = Callable[[socket.socket], object]


class Ports(Protocol):
    """As SupportsPorts promises them, for one container."""

    async def connect(self, port: int) -> socket.socket: ...

    async def listen(self, port: int, accepted: Accepted) -> Listener: ...

    def close(self) -> None:
        """Listen no more, and let go of the namespace; connections stay."""
        ...
