"""What functions are really written with, unmodified, in containers: all pass the same tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import docker
import pytest

from skybridge_client import AsyncClient
from tests.support.functions import PYTHON, deploy_spec, new_id, told
from tests.support.server import Server
from tests.support.waiting import until

pytestmark = pytest.mark.docker

PACKAGES = "skybridge-local/python-packages:3.11"
NODE = "skybridge-local/node:20"

# Each does as its input says: {"echo": any}, {"fail": any} or {"log": words}.

PLAIN = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "log" in asked:
            print(asked["log"], flush=True)
        body = json.dumps(asked.get("echo")).encode()
        self.send_response(500 if "fail" in asked else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""

FRAMEWORK = """
import functions_framework

@functions_framework.http
def handle(request):
    asked = request.get_json(force=True)
    if "log" in asked:
        print(asked["log"], flush=True)
    if "fail" in asked:
        raise ValueError(asked["fail"])
    return asked.get("echo", {})
"""

LAMBDA = """
def handle(asked, context):
    if "log" in asked:
        print(asked["log"], flush=True)
    if "fail" in asked:
        raise ValueError(asked["fail"])
    return asked.get("echo")
"""

NODE_FRAMEWORK = """
const functions = require("@google-cloud/functions-framework");
functions.http("handle", (request, response) => {
  const asked = JSON.parse(request.rawBody);
  if ("log" in asked) console.log(asked.log);
  if ("fail" in asked) throw new Error(asked.fail);
  response.json(asked.echo ?? null);
});
"""

IN_FILE = 'printf %s "$SOURCE" > /tmp/function.py && exec python3 -m '


@dataclass(frozen=True)
class Kind:
    """How functions are written and run."""

    contract: Literal["http", "lambda"]
    source: str
    run: str
    image: str = PACKAGES


KINDS = {
    "http.server": Kind("http", PLAIN, 'exec python3 -c "$SOURCE"', PYTHON),
    "functions-framework": Kind(
        "http",
        FRAMEWORK,
        IN_FILE + "functions_framework --source=/tmp/function.py --target=handle",
    ),
    "awslambdaric": Kind("lambda", LAMBDA, IN_FILE + "awslambdaric function.handle"),
}


@pytest.fixture(scope="module")
def node_framework(
    server: Server, docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    """An image with the framework from npm, where this machine can make one."""
    if not shutil.which("npm") or not docker_client.images.list(NODE):
        pytest.skip("this machine has no Node to make an image of")
    folder = tmp_path_factory.mktemp("node")
    npm_install(folder)
    (folder / "function.js").write_text(NODE_FRAMEWORK)
    (folder / "Dockerfile").write_text(f"FROM {NODE}\nCOPY . /function\n")
    tag = f"skybridge-test/{new_id('node')}"
    docker_client.images.build(path=str(folder), tag=tag, rm=True)
    main = "/function/node_modules/@google-cloud/functions-framework/build/src/main.js"
    yield Kind("http", "", f"exec node {main} --target=handle --source=/function", tag)
    server.settle()
    docker_client.images.remove(tag)


def npm_install(folder: Path) -> None:
    package = {"private": True, "main": "function.js"}
    (folder / "package.json").write_text(json.dumps(package))
    command = ["npm", "install", "--no-audit", "--no-fund", "@google-cloud/functions-framework@5"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=100)
    if done.returncode:
        pytest.skip(f"npm cannot fetch the framework here: {done.stderr[-200:]!r}")


@pytest.fixture
async def deployed(client: AsyncClient) -> AsyncGenerator[Callable[..., Any], None]:
    made: list[str] = []

    async def deploy(kind: Kind, network: Literal["none", "egress"]) -> str:
        name = await deploy_spec(
            client,
            image=kind.image,
            command=["/bin/sh", "-c", kind.run],
            env={"SOURCE": kind.source, "HOME": "/tmp"},
            working_dir="/tmp",
            contract=kind.contract,
            network=network,
            memory_bytes=256 * 1024 * 1024,
            shutdown_grace=0,
        )
        made.append(name)
        return name

    yield deploy
    for name in made:
        await client.delete_function(name, force=True)


@pytest.mark.parametrize("network", ["none", "egress"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_runtime(
    client: AsyncClient, deployed: Callable[..., Any], kind: Kind, network: str
) -> None:
    await behaves(client, await deployed(kind, network))


@pytest.mark.parametrize("network", ["none", "egress"])
async def test_the_framework_of_node(
    client: AsyncClient, deployed: Callable[..., Any], node_framework: Kind, network: str
) -> None:
    await behaves(client, await deployed(node_framework, network))


async def test_a_handler_that_is_not_there(
    client: AsyncClient, deployed: Callable[..., Any]
) -> None:
    kind = replace(KINDS["awslambdaric"], run=IN_FILE + "awslambdaric missing.handle")
    failed = await client.execute(await deployed(kind, "none"), b"{}")
    assert told(failed) == ("FAILED", "INIT_ERROR")
    assert "missing" in failed.failure.message


async def behaves(client: AsyncClient, function: str) -> None:
    """Ask a function all that is the same whatever it is written with."""

    async def ask(**asked: Any) -> Any:
        return await client.execute(
            function, json.dumps(asked).encode(), content_type="application/json"
        )

    first = await ask(echo={"a": "ü"})
    assert told(first)[0] == "SUCCEEDED", first.failure.message
    assert json.loads(first.output) == {"a": "ü"}
    assert first.cold_start

    large = {"a": "x" * 1024 * 1024}
    assert json.loads((await ask(echo=large)).output) == large

    failed = await ask(fail="as asked")
    assert told(failed) == ("FAILED", "FUNCTION_ERROR")

    logged = await ask(log="words of this execution")

    async def seen() -> bool:
        # What a busy engine hands on too late for the execution is in the log of its instance.
        instance = await client.get_instance(first.instance)
        return b"words of this execution" in logged.log_tail + instance.log_tail

    await until(seen, "what the function logs")
    last = await ask(echo={"a": 1})
    assert json.loads(last.output) == {"a": 1}
    assert b"words" not in last.log_tail
    assert {each.instance for each in (failed, logged, last)} == {first.instance}
    assert not last.cold_start
