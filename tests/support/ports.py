"""Ports for programs that cannot be told to take any free one."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
