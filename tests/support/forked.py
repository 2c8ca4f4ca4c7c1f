"""Servers forked from a process that has imported all that they need.

Imports are most of the cost of a start, and the tests start more servers than anybody else. The
rest is as `skybridge-server serve` does it: its own process, signals, streams and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from skybridge_server.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["skybridge_server.cli", "skybridge_server.process"])


class Forked:
    """One server, with what is used of subprocess.Popen."""

    def __init__(
        self, environment: dict[str, str], log: Path, prepare: Callable[[], object] | None
    ) -> None:
        given = (environment, log, prepare)
        # A daemon: should a test forget it, it ends with the tests.
        self._process = _FORKS.Process(target=_serve, args=given, daemon=True)
        self._process.start()

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
            raise subprocess.TimeoutExpired("skybridge-server serve", timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(environment: dict[str, str], log: Path, prepare: Callable[[], object] | None) -> None:
    os.environ.clear()
    # What the command sets when it is imported goes with the rest.
    os.environ.update({"GRPC_VERBOSITY": "NONE"} | environment)
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if prepare:
        prepare()
    sys.argv = ["skybridge-server", "serve"]
    main()
