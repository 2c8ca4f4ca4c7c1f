"""A disk of a test's own: small, and full whenever the test says so. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest


class Disk:
    """A small file system in memory, and a ballast that fills it."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        """Mount it at `folder`, which is made."""
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir()
        options = f"size={size_bytes}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    @staticmethod
    def require() -> None:
        """Leave out a test where none can be mounted; where CI=true it is a failure."""
        if os.geteuid() != 0:
            leave_out = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            leave_out("mounting a small disk needs root")

    def fill(self, *, leaving: int) -> None:
        """Leave so many bytes, or a page more."""
        size = max(0, shutil.disk_usage(self.folder).free - leaving)
        with self._ballast.open("ab") as ballast, suppress(OSError):
            os.posix_fallocate(ballast.fileno(), ballast.tell(), size)

    def free(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink()

    def discard(self) -> None:
        """Unmount it; nobody may have a file of it open."""
        subprocess.run(["umount", self.folder], check=True)
