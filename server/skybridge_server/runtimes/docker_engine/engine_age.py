"""When the engine at the other end of a local socket was started, as far as this host shows it.

What containers wrote while another process was their engine may not have reached the log.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

ACTIVATORS = {"systemd", "init"}
"""Who listens for an engine that is started on demand; then its pid file names it."""


def began(url: str) -> float | None:
    """Return when the engine at an address began, as seconds since 1970; None: unknown."""
    scheme, _, path = url.partition("://")
    if scheme != "http+unix":
        return None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(path)
            return _begin_of(_process_behind(connection, path))
    except (OSError, ValueError, IndexError):
        return None  # it runs where we cannot see processes


def _process_behind(connection: socket.socket, path: str) -> int:
    format_ = "3i"
    size = struct.calcsize(format_)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = struct.unpack(format_, credentials)[0]
    if (Path("/proc") / str(pid) / "comm").read_text().strip() in ACTIVATORS:
        return int(Path(path).with_suffix(".pid").read_text())
    return pid


def _begin_of(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    seconds_after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + seconds_after_boot
