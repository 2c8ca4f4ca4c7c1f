"""Room on the disk: executions are refused before it is gone, so that those that run can end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from skybridge_server.errors import StorageFullError

MIB = 1024 * 1024
RESERVE_BYTES = 32 * MIB
"""What new executions leave to those that were accepted before them."""
LOOK_SECONDS = 0.1


class Room:
    """What is left of the disk of a file. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free = 0
        self._next_look = 0.0

    def check(self) -> None:
        """Raise StorageFullError if the disk is all but full."""
        now = time.monotonic()
        if now >= self._next_look:
            disk = os.statvfs(self._path)
            self._free = disk.f_bavail * disk.f_frsize
            self._next_look = now + LOOK_SECONDS
        if self._free < RESERVE_BYTES:
            raise no_room(
                f"{self._free // MIB} MiB are left, and {RESERVE_BYTES // MIB} kept for what runs"
            )


def no_room(detail: str) -> StorageFullError:
    return StorageFullError(
        f"the disk of the database is full ({detail}): nothing is accepted until there is room; "
        "make some, or keep less, see FAAS_EXECUTION_RETENTION"
    )
