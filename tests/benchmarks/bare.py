"""The floor of executions: bare docker-py calls, with the hardening that the server uses."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from docker import APIClient
from docker.utils import kwargs_from_env

from skybridge_server.models.functions import Isolation, Network, Resources
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.runtimes.docker_engine.hardening import container_config, host_options
from skybridge_server.runtimes.docker_engine.namespace import enter
from tests.benchmarks.harness import BUSYBOX, PYTHON, Process

STREAMS = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}


PORT = 8080


class Bare:
    """An engine, through docker-py alone."""

    def __init__(self) -> None:
        self.client = APIClient(**kwargs_from_env(), version="auto", max_pool_size=64)
        self._info: dict[str, Any] = self.client.info()

    def config(self, script: str, resources: Resources) -> dict[str, Any]:
        """Return the arguments that create a container of a shell script as the server would."""
        return self._config(BUSYBOX, ("/bin/sh", "-c", script), {}, resources)

    def _config(
        self, image: str, command: tuple[str, ...], env: dict[str, str], resources: Resources
    ) -> dict[str, Any]:
        spec = ContainerSpec(
            name=f"bench-{uuid.uuid4().hex}",
            image_id=image,
            command=command,
            args=(),
            env=env,
            labels={"skybridge.bench": "1"},
            working_dir="",
            resources=resources,
            network=Network.NONE,
            isolation=Isolation(),
            stop_grace=timedelta(seconds=1),
        )
        options = host_options(self._info, spec)
        return {
            **container_config(spec),
            "host_config": self.client.create_host_config(**options),
        }

    def cycle(self, script: str) -> float:
        """Create, attach, start, read to the end, wait, remove; return the seconds it took."""
        began = time.perf_counter()
        container = self.client.create_container(**self.config(script, Resources()))["Id"]
        for _ in self._output(container):
            pass
        self.client.wait(container)
        self.client.remove_container(container)
        return time.perf_counter() - began

    def read(self, script: str, output_bytes: int) -> float:
        """Run a container, read all that it writes, and return the seconds from first to last."""
        config = self.config(script, Resources(output_bytes=output_bytes))
        container = self.client.create_container(**config)["Id"]
        sizes = self._output(container)
        next(sizes)
        began = time.perf_counter()
        for _ in sizes:
            pass
        seconds = time.perf_counter() - began
        self.client.wait(container)
        self.client.remove_container(container)
        return seconds

    def first_answer(self, program: str) -> float:
        """Create and start a web server, ask it as soon as it listens; return the seconds."""
        command = ("python3", "-c", program)
        config = self._config(PYTHON, command, {"PORT": str(PORT)}, Resources())
        began = time.perf_counter()
        container = self.client.create_container(**config)["Id"]
        self.client.start(container)
        pid = self.client.inspect_container(container)["State"]["Pid"]
        with ThreadPoolExecutor(1) as thread:  # it stays in that network for all its life
            thread.submit(_ask, pid).result()
        seconds = time.perf_counter() - began
        self.client.remove_container(container, force=True)
        return seconds

    def created_ahead(self, function: str) -> int:
        """Count the containers that wait for executions of a function, by its id."""
        name = f"namespaces/default/functions/{function}"
        filters = {"label": ["skybridge.ahead", f"skybridge.function={name}"], "status": "created"}
        return len(self.client.containers(all=True, filters=filters))

    def pin(self, function: str, cores: set[int]) -> None:
        """Let the instances of a function, by its id, run on these cores only."""
        name = f"namespaces/default/functions/{function}"
        instances = self.client.containers(filters={"label": f"skybridge.function={name}"})
        assert instances, f"function {function} has no instance"
        for found in instances:
            state = self.client.inspect_container(found["Id"])["State"]
            Process("", state["Pid"]).pin(cores)

    def first_byte(self, container: str) -> float:
        """Attach to a container that runs, and return the clock when its first byte comes."""
        attached = self.client.attach_socket(container, params={"stdout": 1, "stream": 1})
        attached._sock.recv(1)
        seen = time.perf_counter()
        attached.close()
        return seen

    def _output(self, container: str) -> Iterator[int]:
        """Attach, start, and yield the sizes of what comes, headers of frames included."""
        attached = self.client.attach_socket(container, params=STREAMS)
        raw: socket.socket = attached._sock  # docker-py offers no other way to a fast read
        self.client.start(container)
        raw.shutdown(socket.SHUT_WR)
        buffer = bytearray(256 * 1024)
        while size := raw.recv_into(buffer):
            yield size
        attached.close()


def _ask(pid: int) -> None:
    """Ask the web server of a process, in its network, and read the answer."""
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        enter(network)
    finally:
        os.close(network)
    with _connected() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: 5\r\n\r\nhello")
        answer = b""
        while not answer.endswith(b"hello"):
            answer += sock.recv(1024)


def _connected() -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", PORT))
        except ConnectionRefusedError:
            time.sleep(0.001)
