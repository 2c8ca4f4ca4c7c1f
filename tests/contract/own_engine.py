"""A Docker Engine of a test's own, which it may stop and kill; the one of the machine stays."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import closing, suppress
from pathlib import Path

import docker
import pytest
import trustme

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_until


class OwnEngine:
    """A dockerd with a bridge, data and certificates of its own. Needs root."""

    def __init__(self, folder: Path, *, live_restore: bool = True) -> None:
        """`live_restore`: containers outlive it. Without, as by default, it takes them along."""
        self._folder = folder
        self._live_restore = live_restore
        self._bridge = f"br-{uuid.uuid4().hex[:8]}"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._certificates = folder / "certificates"
        self._issue_certificates()
        # Without a bridge that exists it would take, and with `none` delete, that of the machine.
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", "172.31.251.1/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")

    @staticmethod
    def require() -> None:
        """Leave out a test where no engine can be started; where CI=true it is a failure."""
        if os.geteuid() == 0 and shutil.which("dockerd") and shutil.which("ip"):
            return
        leave_out = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        leave_out("starting an engine needs root, dockerd and ip")

    @property
    def environment(self) -> dict[str, str]:
        """How docker finds it on this host."""
        return {"DOCKER_HOST": f"unix://{self._folder}/docker.sock"}

    @property
    def tls_environment(self) -> dict[str, str]:
        """How docker finds it from afar."""
        return {
            "DOCKER_HOST": f"tcp://127.0.0.1:{self._port}",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(self._certificates),
        }

    def start(self) -> None:
        """Start it and wait until it answers.

        On a busy machine it may give up before, as its containerd took too long: then once more.
        """

        def answers() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._launch()
            return self._answers()

        wait_until(answers, "the engine to answer")

    def _launch(self) -> None:
        self._bury_containerd()
        environment = {"GOGC": "400", **os.environ}  # as in scripts/engine
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=environment, stdout=log, stderr=log
            )

    def _bury_containerd(self) -> None:
        """Wait for that of a dead engine to die as well.

        Its number must go, or the next engine takes a process that nobody buried for its own.
        """
        number = self._folder / "exec/containerd/containerd.pid"
        if number.exists():
            wait_until(lambda: _dead(number.read_text()), "containerd to die with its parent")
            number.unlink()

    def stop(self) -> None:
        """End it as an operator would; its socket vanishes."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would; its socket stays, and nobody listens."""
        self._end(signal.SIGKILL)
        self._bury_containerd()

    def freeze(self) -> None:
        """Let it take connections and answer none, as when its machine is overwhelmed."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def load(self, image: str) -> None:
        """Take an image over from the machine's engine."""
        with closing(docker.from_env()) as source, closing(self.client()) as target:
            target.images.load(b"".join(source.api.get_image(image)))

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.environment["DOCKER_HOST"])

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        with closing(self.client()) as client:
            for container in client.containers.list(all=True, ignore_removed=True):
                container.remove(force=True)
            client.networks.prune()
        self.stop()
        self._end_what_it_forgot()
        _run("ip", "link", "delete", self._bridge)
        # Its data after live-restore and each kill, networks of containers that it forgot.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mounted in reversed([each for each in mounts if each.startswith(f"{self._folder}/")]):
            _run("umount", mounted)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_what_it_forgot(self) -> None:
        """End containers that it was starting when it was killed: it does not know them again."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                if f"{self._folder}/exec/containerd" in (process / "cmdline").read_text():
                    children = (process / "task" / process.name / "children").read_text()
                    for pid in (*children.split(), process.name):
                        os.kill(int(pid), signal.SIGKILL)

    def _command(self) -> list[str]:
        options = {
            "host": f"unix://{self._folder}/docker.sock",
            "data-root": self._folder / "data",
            "exec-root": self._folder / "exec",
            "pidfile": self._folder / "pid",
            "config-file": self._folder / "none.json",
            "bridge": self._bridge,
            "iptables": "false",
            "ip-masq": "false",
            "live-restore": str(self._live_restore).lower(),
            "tlscacert": self._certificates / "ca.pem",
            "tlscert": self._certificates / "server-cert.pem",
            "tlskey": self._certificates / "server-key.pem",
        }
        return [
            "dockerd",
            "--tlsverify",
            f"--host=tcp://127.0.0.1:{self._port}",
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as attempt, suppress(OSError):
            attempt.settimeout(PATIENCE)
            attempt.connect(f"{self._folder}/docker.sock")
            attempt.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in attempt.recv(64)
        return False

    def _end(self, how: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(how)
        self._process.wait(PATIENCE)

    def _issue_certificates(self) -> None:
        self._certificates.mkdir()
        (self._folder / "none.json").write_text("{}")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._certificates / "ca.pem")
        for prefix in ("server-", ""):
            issued = authority.issue_cert("127.0.0.1")
            issued.private_key_pem.write_to_path(self._certificates / f"{prefix}key.pem")
            issued.cert_chain_pems[0].write_to_path(self._certificates / f"{prefix}cert.pem")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _dead(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"
