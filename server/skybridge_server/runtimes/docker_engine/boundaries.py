"""Writes into the output of containers, through the pipes that their first processes write to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from skybridge_server.models.journal import OutputStream

_NAMES = {OutputStream.STDOUT: "1", OutputStream.STDERR: "2"}
"""Of their descriptors."""

_Identity = tuple[int, int]
"""Device and inode."""


class PipeBoundaries:
    """The pipes of one container, whose first process is one of this host."""

    def __init__(self, number: int, container_id: str) -> None:
        """`number`: of that process, as the engine counts. OSError: it is another, or has no pipes.

        Two streams in one pipe could not be told apart.
        """
        if container_id not in Path(f"/proc/{number}/cgroup").read_text():
            raise ProcessLookupError(errno.ESRCH, "the engine counts other processes than we do")
        self._descriptors = Path(f"/proc/{number}/fd")
        self._paths = {stream: self._descriptors / name for stream, name in _NAMES.items()}
        self._pipes = {stream: _pipe(path.stat()) for stream, path in self._paths.items()}
        if len({*self._pipes.values()}) < len(self._pipes):
            raise _not_theirs()

    def __call__(
        self, boundary: bytes, streams: Collection[OutputStream]
    ) -> Collection[OutputStream]:
        # Not kept open: the engine waits for the end of all who may write.
        opened: dict[OutputStream, int] = {}
        try:
            for stream in streams:
                opened[stream] = self._open(stream)
            return _write_all(opened, boundary)
        finally:
            for pipe in opened.values():
                os.close(pipe)

    def _open(self, stream: OutputStream) -> int:
        """Open a pipe wherever its process has it: a shell puts it aside to redirect a command."""
        pipe = self._pipes[stream]
        try:
            return _open(self._paths[stream], pipe)
        except OSError:
            for path in self._descriptors.iterdir():
                with suppress(OSError):  # another, or closed meanwhile
                    return _open(path, pipe)
            raise


def _open(path: Path, pipe: _Identity) -> int:
    """Open a descriptor of a process if it is an end of this pipe. OSError."""
    if _pipe(path.stat()) != pipe:  # to open something else might do something
        raise _not_theirs()
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if _pipe(os.fstat(descriptor)) == pipe:
        return descriptor
    os.close(descriptor)
    raise _not_theirs()


def _pipe(status: os.stat_result) -> _Identity:
    if not stat.S_ISFIFO(status.st_mode):
        raise _not_theirs()
    return status.st_dev, status.st_ino


def _not_theirs() -> OSError:
    return OSError(errno.ESTALE, "the process has replaced its streams")


def _write_all(pipes: dict[OutputStream, int], data: bytes) -> list[OutputStream]:
    """Write data into pipes, and return which took it. OSError: none did, or will."""
    taken: list[OutputStream] = []
    for stream, pipe in pipes.items():
        try:
            if _write(pipe, data):
                taken.append(stream)
        except OSError:
            if not taken:
                raise
    return taken


def _write(pipe: int, data: bytes) -> bool:
    """Write data whole, as pipes do up to 4096 bytes, or not at all. OSError."""
    try:
        return os.write(pipe, data) == len(data)
    except BlockingIOError:
        return False
