"""What the HTTP contract promises a container, asked from inside: docs/http-contract.md."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from skybridge_client import AsyncClient, Patience
from tests.support.functions import deploy_python, told
from tests.support.server import Server

pytestmark = pytest.mark.docker

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MEMORY_BYTES = 96 * 1024 * 1024

# A web server that tells what it sees; it listens early, and is healthy from the third look on.
PROGRAM = r"""
import http.server, json, os, sys

SEEN = []
LIMITS = ("memory/memory.limit_in_bytes", "memory.max")

def limit():
    for name in LIMITS:
        if os.path.exists("/sys/fs/cgroup/" + name):
            return open("/sys/fs/cgroup/" + name).read().strip()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        SEEN.append(self.path)
        self.answer(200 if len(SEEN) > 2 else 503, {})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        open("/tmp/mine", "w").close()
        self.answer(200, {
            "environment": dict(os.environ),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "request": self.requestline,
            "looks": SEEN,
            "user": [os.getuid(), os.getgid()],
            "stdin": sys.stdin.read(),
            "terminal": os.isatty(0) or os.isatty(1) or os.isatty(2),
            "limit": limit(),
        })

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""


Deploy = Callable[..., Awaitable[tuple[AsyncClient, str]]]


@pytest.fixture
async def deploy(server: Server) -> AsyncGenerator[Deploy, None]:
    """Deploy the program, which is gone after the test."""
    made: list[str] = []
    async with AsyncClient(server.address, patience=Patience(tries=1, first_tries=1)) as client:

        async def deploy(**fields: Any) -> tuple[AsyncClient, str]:
            made.append(await deploy_python(client, PROGRAM, contract="http", **fields))
            return client, made[-1]

        yield deploy
        for name in made:
            await client.delete_function(name, force=True)


async def seen(function: tuple[AsyncClient, str], **options: Any) -> dict[str, Any]:
    client, name = function
    execution = await client.execute(name, b"x", **options)
    assert told(execution)[0] == "SUCCEEDED", execution.failure.message
    found: dict[str, Any] = json.loads(execution.output)
    return found | {"execution": execution.name.rpartition("/")[2], "function": name}


async def test_the_environment(deploy: Deploy) -> None:
    found = await seen(await deploy())
    environment = found["environment"]
    assert environment["PORT"] == "8080"
    assert environment["K_SERVICE"] == environment["K_CONFIGURATION"] == found["function"]
    assert environment["K_REVISION"] == f"{found['function']}-00001"
    assert environment["SKYBRIDGE_FUNCTION"] == f"namespaces/default/functions/{found['function']}"


async def test_the_headers(deploy: Deploy) -> None:
    found = await seen(
        await deploy(path="/run"),
        headers={"x-mine": "grüße", "ce-id": "7"},
        content_type="text/x-mine",
        traceparent=TRACE,
    )
    headers = found["headers"]
    assert found["request"] == "POST /run HTTP/1.1"
    assert headers["host"] == f"{found['function']}.default"
    assert headers["forwarded"] == f"for=unknown;host={headers['host']};proto=http"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("unknown", "http")
    assert headers["traceparent"] == TRACE
    assert headers["x-skybridge-execution-id"] == found["execution"]
    assert headers["x-mine"] == "grüße"
    assert (headers["ce-id"], headers["content-type"]) == ("7", "text/x-mine")


async def test_the_process(deploy: Deploy) -> None:
    found = await seen(await deploy(user="1234:5678", memory_bytes=MEMORY_BYTES))
    assert found["user"] == [1234, 5678]
    assert found["stdin"] == ""
    assert not found["terminal"]
    assert found["limit"] in {None, str(MEMORY_BYTES)}


async def test_ready_by_a_health_path(deploy: Deploy) -> None:
    found = await seen(await deploy(health_path="/healthz"))
    assert found["looks"] == ["/healthz"] * 3
