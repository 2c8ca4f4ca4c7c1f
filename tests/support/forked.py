"""Our programs, forked from a process that has imported all that they need.

Imports are most of the cost of a start, and the tests start programs hundreds of times. The rest is
as on the command line: a process of its own, its signals, streams and exit code.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PROGRAMS = {"skybridge": "skybridge_client.cli", "skybridge-server": "skybridge_server.cli"}
"""The modules whose main() they are."""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["skybridge_server.cli", "skybridge_server.process", "skybridge_client.cli.app"]
)


class Forked:
    """One run of a program, with what is used of subprocess.Popen."""

    def __init__(
        self,
        words: tuple[str, ...],
        environment: Mapping[str, str],
        out: Path,
        err: Path,
        *,
        given: bytes = b"",
        folder: Path | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """Append to the files `out` and `err`; call `prepare` in the new process before it runs."""
        reader, writer = multiprocessing.Pipe(duplex=False)
        asked = (words, dict(environment), reader, out, err, folder or Path.cwd(), prepare)
        # A daemon: should a test forget it, it ends with the tests.
        self._process = _FORKS.Process(target=_run, args=asked, daemon=True)
        with reader, writer:
            self._process.start()
            reader.close()
            _write(writer.fileno(), given)

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Wait for the exit code. subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked program", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _write(descriptor: int, data: bytes) -> None:
    with suppress(BrokenPipeError):  # it need not read
        while data:
            data = data[os.write(descriptor, data) :]


def _run(
    words: tuple[str, ...],
    environment: dict[str, str],
    given: Connection,
    out: Path,
    err: Path,
    folder: Path,
    prepare: Callable[[], Any] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(given.fileno(), 0)
    given.close()
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing has opened another
    for descriptor, path in ((1, out), (2, err)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    if prepare:
        prepare()
    sys.argv = [*words]
    importlib.import_module(PROGRAMS[words[0]]).main()
