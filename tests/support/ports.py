"""Ports for programs that cannot be told to take any free one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a port of loopback that was free a moment ago.

    It is below those that the system gives out by itself, and so none of them takes it meanwhile.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                sock.bind(("127.0.0.1", port))
                return port
