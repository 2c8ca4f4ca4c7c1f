"""No execution sees anything of another revision or function, nor of others beside it.

The programs hide a word wherever they can write, and seek it wherever they can read. That the
search is good for something is seen where it finds what the same process, or instance, has hidden.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from skybridge_client import AsyncClient, Execution
from tests.support.functions import deploy, deploy_python, new_id, told
from tests.support.http_function import deploy_http

pytestmark = pytest.mark.docker

SEARCH = r"""
import os, socket, sys, tempfile

KEPT = []


def places():
    for folder, inner, _ in os.walk("/"):
        if folder == "/":
            inner[:] = [each for each in inner if each not in ("proc", "sys")]
        if os.access(folder, os.W_OK):
            yield folder


def hide(word):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0hidden-" + word)
    KEPT.extend([word, listener])
    os.environ["HIDDEN"] = word
    for place in places():
        try:
            with open(place + "/hidden-" + word, "w") as file:
                file.write(word)
        except OSError:
            pass


def seek():
    found = ["memory " + each for each in KEPT if isinstance(each, str)]
    found += ["env " + each for each in os.environ if each == "HIDDEN"]
    for place in places():
        found += [place for each in os.listdir(place) if each.startswith("hidden-")]
    with open("/proc/net/unix") as sockets:
        found += ["socket" for line in sockets if "hidden-" in line]
    return "\n".join(found).encode()
"""
ONCE = (
    SEARCH
    + r"""
before = seek()
word = sys.stdin.read()
if word:
    hide(word)
    assert b"/tmp" in seek() and b"socket" in seek(), seek()
sys.stdout.buffer.write(before)
"""
)
"""Tells what was there, then hides its input if there is one."""
KEEPER = (
    SEARCH
    + r"""
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        word = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        before = seek()
        if word:
            hide(word)
        self.send_response(200)
        self.send_header("content-length", str(len(before)))
        self.end_headers()
        self.wfile.write(before)

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""
)
"""The same, as a web server."""


async def found(client: AsyncClient, name: str, hide: bytes = b"") -> bytes:
    """Execute, and return what was found; `hide` is hidden afterwards."""
    execution = await client.execute(name, hide)
    assert told(execution)[0] == "SUCCEEDED", execution.log_tail
    return execution.output


@asynccontextmanager
async def load(call: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Let two callers call all the time."""
    done = asyncio.Event()

    async def caller() -> None:
        while not done.is_set():
            await call()

    callers = [asyncio.create_task(caller()) for _ in range(2)]
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(*callers)


async def update(client: AsyncClient, name: str) -> None:
    await client.update_function(name, env={"REVISION": new_id()})
    async for _ in client.deploy(name):
        pass


async def test_an_instance_shows_nothing_to_another_revision_or_function(
    client: AsyncClient,
) -> None:
    name, other = [
        await deploy_python(client, KEEPER, contract="http", min_instances=1, shutdown_grace=1)
        for _ in range(2)
    ]
    assert await found(client, name, b"secret") == b""
    kept = await found(client, name)
    assert {b"memory secret", b"env HIDDEN", b"/tmp", b"socket"} <= {*kept.splitlines()}

    answers: list[Execution] = []

    async def call() -> None:
        answers.append(await client.execute(name, b""))

    async with load(call):
        await update(client, name)
        assert await found(client, name) == b""
    by_revision = {each.revision.rpartition("/")[2]: each.output for each in answers}
    assert by_revision.keys() <= {"1", "2"}
    assert {each.output for each in answers if each.revision.endswith("/2")} <= {b""}
    assert await found(client, other) == b""
    for each in (name, other):
        await client.delete_function(each)


@pytest.mark.parametrize("ahead", [0, 2])
async def test_a_process_shows_nothing_to_any_other(client: AsyncClient, ahead: int) -> None:
    name, other = [await deploy_python(client, ONCE, min_instances=ahead) for _ in range(2)]
    words = 0

    async def call() -> None:
        nonlocal words
        words += 1
        assert await found(client, name, b"secret-%d" % words) == b""

    async with load(call):
        await call()
        await update(client, name)
        assert await found(client, other) == b""
        await call()
    for each in (name, other):
        await client.delete_function(each)


async def test_what_executions_say_at_once_never_mixes(client: AsyncClient) -> None:
    processes = await deploy(client, 'read word; echo "log $word" >&2; sleep 0.1; echo "$word"')
    instances = await deploy_http(client, max_instances=2)

    async def call_process(word: bytes) -> None:
        execution = await client.execute(processes, word + b"\n")
        assert (execution.output, execution.log_tail) == (word + b"\n", b"log " + word + b"\n")

    async def call_instance(word: bytes) -> None:
        assert (await client.execute(instances, b"echo " + word)).output == b"echo " + word

    words = [b"word-%d" % number for number in range(6)]
    await asyncio.gather(*map(call_process, words))
    await asyncio.gather(*map(call_instance, words * 10))
    await client.delete_function(instances)
