"""A `skybridge-server serve` in a process of its own, as an operator runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from skybridge_client import Client, TlsConfig
from tests.support.forked import Forked
from tests.support.waiting import PATIENCE, wait_until

ROLE = "skybridge.role"
LOG_TAIL = 8000
Process = Forked | subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Level:
    """What a process holds at a moment."""

    threads: int
    descriptors: int


class Server:
    """Start it, stop it, kill it, start it again on the same database and address."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """Start nothing yet. `settings` are environment variables."""
        self._settings = {
            "FAAS_DATABASE": str(folder / "skybridge.db"),
            "FAAS_LISTEN": "127.0.0.1:0",
            "FAAS_METRICS_LISTEN": "127.0.0.1:0",
            "FAAS_LOG_FORMAT": "json",
            **settings,
        }
        self._log = folder / "server.log"
        self._process: Process | None = None
        self.address = ""
        self.metrics_url = ""
        self.id = ""
        """What its containers are labelled with."""
        self.tls: TlsConfig | None = None
        self.forked = True
        """Save most of the time of a start; see tests/support/forked.py."""
        self.under: tuple[str, ...] = ()
        """A command that becomes the server, such as one that gives up rights before."""
        self.prepare: Callable[[], object] | None = None
        """What a forked server calls before it serves."""

    def set(self, **settings: str) -> None:
        """Change settings for the next start."""
        self._settings |= settings

    def setting(self, name: str) -> str:
        return self._settings[name]

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        begin = self.launch()
        wait_until(lambda: self._ready(begin), "the server to be ready", PATIENCE)
        token = self._settings.get("FAAS_ADMIN_TOKEN", "")
        with Client(self.address, tls=self.tls, token=token) as client:
            self.id = client.system_info().server_id

    def launch(self) -> int:
        """Start it without waiting; return where its log begins."""
        begin = self.log_size()
        self._log.touch()
        environment = {**os.environ, **self._settings}
        if self.forked and not self.under:
            self._process = Forked(
                ("skybridge-server", "serve"),
                environment,
                self._log,
                self._log,
                prepare=self.prepare,
            )
        else:
            self._process = self._new_process(environment)
        return begin

    def _new_process(self, environment: dict[str, str]) -> Process:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self.under, sys.executable, "-m", "skybridge_server", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _ready(self, begin: int) -> bool:
        for line in self.events(begin):
            if line["event"] == "ready":
                self.address = line["grpc"]
                self.metrics_url = line.get("metrics", "")
                # A restart listens where clients know it.
                self._settings["FAAS_LISTEN"] = self.address
                return True
        assert self.process.poll() is None, f"the server does not start:\n{self.log_tail()}"
        return False

    @property
    def process(self) -> Process:
        assert self._process, "not started"
        return self._process

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- what it says ---------------------------------------------------------------------------

    def events(self, begin: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the whole lines of its log that are JSON."""
        with self._log.open("rb") as log:
            log.seek(begin)
            for line in log:
                if line.startswith(b"{") and line.endswith(b"}\n"):
                    yield json.loads(line)

    def log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def errors(self) -> list[dict[str, Any]]:
        """Return what it logged as a defect of itself."""
        return [line for line in self.events() if line["level"] == "error"]

    def wait_for(self, event: str) -> None:
        """Wait until it has logged an event."""
        wait_until(lambda: any(line["event"] == event for line in self.events()), event)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def log_tail(self) -> str:
        return self.log()[-LOG_TAIL:]

    # -- ending it ------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it as a service manager does."""
        self.signal(signal.SIGTERM)
        self.end()

    def end(self) -> None:
        """Wait for its end: it must go in peace, and leave no container."""
        code = self.wait()
        assert code == 0, f"exit code {code} at its stop:\n{self.log_tail()}"
        assert self.containers() == [], "containers are left"
        assert self.sandboxes() == [], "sandboxes are left"
        assert self.errors() == []

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.wait()

    def discard(self) -> None:
        """Leave nothing behind, however a test ended."""
        if self.runs:
            self.kill()
        for container in (*self.containers(), *self.sandboxes()):
            with suppress(docker.errors.APIError):  # sandboxes of a dead server go by themselves
                container.remove(force=True, v=True)
        wait_until(lambda: not self._labelled(), "all containers to go")
        for file in self._log.parent.glob("*.db*"):
            file.unlink()  # it may be big; the log stays

    # -- what it holds --------------------------------------------------------------------------

    def containers(self, *labels: str) -> list[Container]:
        """Return the containers of its executions, also those that do not run."""
        return [each for each in self._labelled(*labels) if ROLE not in each.labels]

    def sandboxes(self) -> list[Container]:
        """Return the containers that keep networks for its executions."""
        return self._labelled(f"{ROLE}=sandbox")

    def _labelled(self, *labels: str) -> list[Container]:
        if not self.id:
            return []
        wanted = [f"skybridge.server={self.id}", *labels]
        base_url = self._settings.get("DOCKER_HOST")
        client = docker.DockerClient(base_url) if base_url else docker.from_env()
        try:
            return client.containers.list(all=True, ignore_removed=True, filters={"label": wanted})
        finally:
            client.close()

    def level(self) -> Level:
        """Count its threads and descriptors."""
        process = Path(f"/proc/{self.process.pid}")
        return Level(
            threads=sum(1 for _ in (process / "task").iterdir()),
            descriptors=sum(1 for _ in (process / "fd").iterdir()),
        )

    def rss_bytes(self) -> int:
        """Return its memory that is resident."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def settle(self) -> None:
        """Wait until every container of what has ended is removed."""
        wait_until(lambda: not self.containers(), "all containers to be removed")
