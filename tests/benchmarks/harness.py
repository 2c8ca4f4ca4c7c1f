"""What the benchmarks share: a server of ours, a bare echo beside it, and ratios."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from skybridge.faas.v1 import function_pb2, function_service_pb2
from skybridge.faas.v1.execution_service_pb2_grpc import ExecutionServiceStub
from skybridge.faas.v1.function_service_pb2_grpc import FunctionServiceStub

BUSYBOX = "skybridge-local/busybox:latest"
PYTHON = "skybridge-local/python:3.11"
READY_SECONDS = 30
LOOK_MILLISECONDS = 20
"""Between looks whether a server listens: grpc's own second would be counted as the server's."""


@dataclass(frozen=True, slots=True)
class Result:
    """One figure against its bar: mostly a ratio to a floor measured in the same run, or a size."""

    name: str
    value: float
    bar: float
    unit: str = "x"
    at_most: bool = True
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "holds" if self.holds else "MISSED"
        return (
            f"{self.name:<46} {self.value:8.2f} {self.unit:<4} {sign} {self.bar:g}"
            f"  {verdict:<7} {self.detail}"
        )


@dataclass(frozen=True, slots=True)
class Process:
    """A server, ours or the bare one, in a process of its own."""

    address: str
    pid: int

    def rss_bytes(self) -> int:
        """Return the memory that is resident now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used so far, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def pin(self, cores: set[int]) -> None:
        """Let all its threads run on these cores only, where the machine has them.

        Those of this process say nothing of that: it may be pinned, and its children with it.
        """
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                os.sched_setaffinity(int(thread.name), cores)
            except ProcessLookupError:
                continue  # it has just ended
            except OSError as error:
                if error.errno != errno.EINVAL:  # the machine has no such core
                    raise


class Stubs:
    """The stubs of a channel; close it with `async with`."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_receive_message_length", 8 << 20)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.functions = FunctionServiceStub(self.channel)
        self.executions = ExecutionServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        await self.channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def deploy(self, script: str, **resources: int) -> str:
        """Create and deploy a function that runs a shell script; return its id."""
        return await self.deploy_spec(
            function_pb2.FunctionSpec(
                image=BUSYBOX,
                command=["/bin/sh", "-c", script],
                pull_policy=function_pb2.PULL_POLICY_NEVER,
                resources=function_pb2.Resources(**resources),
            )
        )

    async def deploy_spec(self, spec: function_pb2.FunctionSpec) -> str:
        """Create and deploy a function; return its id."""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        await self.functions.CreateFunction(
            function_service_pb2.CreateFunctionRequest(
                function_id=name, function=function_pb2.Function(spec=spec)
            )
        )
        async for _ in self.functions.DeployFunction(
            function_service_pb2.DeployFunctionRequest(name=name)
        ):
            pass
        return name


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def server(log: Path | None = None, /, **settings: str) -> Iterator[Process]:
    """Run a server of ours on a database of its own; `log`: where it tells what it does."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"127.0.0.1:{free_port()}"
        environment = {
            **os.environ,
            "FAAS_LISTEN": address,
            "FAAS_DATABASE": f"{folder}/bench.db",
            "FAAS_METRICS_LISTEN": "",
            "FAAS_LOG_LEVEL": "info" if log else "warning",
            "FAAS_LOG_FORMAT": "json",
            **settings,
        }
        command = [sys.executable, "-m", "skybridge_server", "serve"]
        with _process(command, environment, log) as pid:
            _wait_for(address)
            yield Process(address, pid)


@contextmanager
def echo() -> Iterator[Process]:
    """Run a bare grpc.aio echo."""
    address = f"127.0.0.1:{free_port()}"
    program = Path(__file__).with_name("echo.py")
    with _process([sys.executable, str(program), address], dict(os.environ)) as pid:
        _wait_for(address)
        yield Process(address, pid)


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Path | None = None
) -> Iterator[int]:
    with log.open("ab") if log else nullcontext() as stderr:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=READY_SECONDS)


def _wait_for(address: str) -> None:
    kinds = ("initial", "min", "max")
    options = [(f"grpc.{kind}_reconnect_backoff_ms", LOOK_MILLISECONDS) for kind in kinds]
    with grpc.insecure_channel(address, options) as channel:
        grpc.channel_ready_future(channel).result(timeout=READY_SECONDS)


async def rate(call: Callable[[], Awaitable[object]], *, callers: int, seconds: float) -> float:
    """Return calls a second that this many callers make, each one after the other."""
    end = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - began)


async def timed(work: Awaitable[object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def milliseconds(samples: list[float]) -> str:
    """Return the median of seconds, for people."""
    return f"{statistics.median(samples) * 1000:.1f} ms"
