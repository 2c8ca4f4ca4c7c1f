"""The client and the command against a real server, with a wire in between that is cut."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from skybridge_client import AsyncClient, Client, ExecutionEvent, Patience
from tests.client.proxy import Proxy
from tests.support.functions import BUSYBOX, new_id, output
from tests.support.server import Server
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.docker

LINES = 200
COUNT = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.01; done"
COUNTED = b"".join(b"line %d\n" % number for number in range(1, LINES + 1))
PATIENT = Patience(tries=50, first_tries=50, first_pause=0.01, longest_pause=0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.discard()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


def deploy(server: Server, script: str) -> str:
    name = new_id()
    with Client(server.address) as client:
        command = ["/bin/sh", "-c", script]
        client.create_function(name, image=BUSYBOX, command=command, pull_policy="never")
        for _ in client.deploy(name):
            pass
    return name


class Cutter:
    """Takes events as they come, and cuts the wire three times on the way."""

    def __init__(self, proxy: Proxy, every: int) -> None:
        self._proxy = proxy
        self._every = every
        self.events: list[ExecutionEvent] = []

    def take(self, event: ExecutionEvent) -> None:
        self.events.append(event)
        if len(self.events) % self._every == 0 and self._proxy.cuts < 3:
            self._proxy.cut()

    def check_whole(self) -> None:
        assert self._proxy.cuts >= 3
        sequences = [event.sequence for event in self.events]
        assert sequences == list(range(1, len(sequences) + 1))
        assert self.events[-1].HasField("result")


def test_a_stream_that_is_cut_again_and_again_is_whole(server: Server, proxy: Proxy) -> None:
    name = deploy(server, COUNT)
    cutter = Cutter(proxy, every=20)
    with Client(proxy.address, patience=PATIENT) as client:
        for event in client.stream(name):
            cutter.take(event)
    cutter.check_whole()
    assert output(cutter.events) == COUNTED


async def test_the_same_from_a_coroutine(server: Server, proxy: Proxy) -> None:
    name = await asyncio.to_thread(deploy, server, COUNT)
    cutter = Cutter(proxy, every=20)
    async with AsyncClient(proxy.address, patience=PATIENT) as client:
        async for event in client.stream(name):
            cutter.take(event)
    cutter.check_whole()
    assert output(cutter.events) == COUNTED


INPUT = [os.urandom(50_000) for _ in range(40)]


def test_stdin_that_is_cut_again_and_again_arrives_whole(server: Server, proxy: Proxy) -> None:
    name = deploy(server, "cat")
    cutter = Cutter(proxy, every=10)
    with Client(proxy.address, patience=PATIENT) as client:
        for event in client.attach(name, INPUT):
            cutter.take(event)
    cutter.check_whole()
    assert digest(output(cutter.events)) == digest(b"".join(INPUT))


async def test_the_same_stdin_from_a_coroutine(server: Server, proxy: Proxy) -> None:
    async def source() -> AsyncIterator[bytes]:
        for piece in INPUT:
            yield piece

    name = await asyncio.to_thread(deploy, server, "cat")
    cutter = Cutter(proxy, every=10)
    async with AsyncClient(proxy.address, patience=PATIENT) as client:
        async for event in client.attach(name, source()):
            cutter.take(event)
    cutter.check_whole()
    assert digest(output(cutter.events)) == digest(b"".join(INPUT))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_server_that_restarts_is_found_again(server: Server) -> None:
    name = deploy(server, "echo done")
    with Client(server.address) as client:
        execution = client.start(name)
        client.wait(execution.name)
        server.stop()
        server.start()
        assert output(list(client.watch(execution.name))) == b"done\n"


# The command, in a process of its own


def command(server: Server, *arguments: str) -> list[str]:
    code = "from skybridge_client.cli import main; main()"
    return [sys.executable, "-c", code, "--address", server.address, *arguments]


def skybridge(
    server: Server, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(server, *arguments), input=stdin, capture_output=True, check=False, timeout=PATIENCE
    )


@pytest.fixture
def name() -> Iterator[str]:
    """A function's name; the image that `up` builds for it is removed again."""
    name = new_id("up")
    yield name
    with closing(docker.from_env()) as engine:
        engine.images.remove(f"skybridge-local/{name}", force=True)


def test_from_a_folder_to_output_logs_and_metrics(
    name: str, server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        'ARG BASE\nFROM $BASE\nCOPY main.sh /main.sh\nENTRYPOINT ["/bin/sh", "/main.sh"]\n'
    )
    (folder / "main.sh").write_text('read who; echo "hello $who"; echo log >&2; exit $CODE\n')
    (folder / "skybridge.toml").write_text(
        f'[function]\nenv = {{ CODE = "0" }}\nmemory_bytes = "32MiB"\n'
        f'[build]\nargs = {{ BASE = "{BUSYBOX}" }}\n'
    )
    assert skybridge(server, "up", str(folder)).returncode == 0
    ran = skybridge(server, "run", name, stdin=b"Ada\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"hello Ada\n", b"log\n")

    assert skybridge(server, "up", str(folder), "--env", "CODE=3").returncode == 0
    assert skybridge(server, "run", name, "Bob").returncode == 3
    assert skybridge(server, "function", "rollback", name).returncode == 0
    assert skybridge(server, "run", name, "Eve").returncode == 0

    assert skybridge(server, "logs", name, "--stream", "stdout").stdout == (
        b"hello Ada\nhello Bob\nhello Eve\n"
    )
    listed = json.loads(
        skybridge(server, "executions", "list", "--function", name, "--json").stdout
    )
    assert len(listed["executions"]) == 3
    metrics = json.loads(skybridge(server, "metrics", name, "--json").stdout)
    assert metrics["executions"] == "3"
    function = json.loads(skybridge(server, "function", "get", name, "--json").stdout)
    assert function["spec"]["resources"]["memoryBytes"] == str(32 << 20)
    assert function["spec"]["env"] == {"CODE": "3"}
    assert skybridge(server, "function", "delete", name).returncode == 0


def test_interactive_and_piped_input(server: Server) -> None:
    name = deploy(server, "cat")
    data = os.urandom(3_000_000)
    assert skybridge(server, "run", "-i", name, stdin=data).stdout == data
    assert skybridge(server, "run", name, stdin=data).stdout == data


def test_ctrl_c_cancels_and_shows_the_end(server: Server) -> None:
    name = deploy(server, "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done")
    with subprocess.Popen(
        command(server, "run", name, "x"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (130, b"bye\n")
    assert b"cancelling" in said


def test_each_end_has_its_exit_code(server: Server) -> None:
    failing = deploy(server, "exit 7")
    assert skybridge(server, "run", failing, "x").returncode == 7
    slow = deploy(server, "sleep 60")
    assert skybridge(server, "run", slow, "x", "--run-timeout", "200ms").returncode == 124
    missing = new_id()
    created = ("function", "create", missing, "--image", BUSYBOX, "--command", "/nowhere")
    assert skybridge(server, *created, "--pull-policy", "never").returncode == 0
    assert skybridge(server, "run", missing, "x").returncode == 1
    unknown = skybridge(server, "function", "create", "Bad", "--image", "", "--pids", "1")
    assert unknown.returncode == 2
    for field in (b"function_id", b"function.spec.image", b"function.spec.resources.pids"):
        assert field in unknown.stderr
    assert unknown.stderr.count(b"\n") == 1
