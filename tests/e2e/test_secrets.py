"""Secrets in real containers: who sees them, when they change, and what is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import docker
import pytest

from skybridge_client import AsyncClient, FailedPreconditionError
from tests.support.command import run
from tests.support.functions import GATED, collect, deploy, deploy_python, told, until_output
from tests.support.server import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
GEHEIM = b"a value that is easy to find \0\xff\n"
READ = "cat /run/secrets/password"
HTTP = r"""
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = open("/run/secrets/password", "rb").read()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as made:
        yield made


def volumes(engine: docker.DockerClient, server: Server) -> list[str]:
    found = engine.api.volumes({"label": [f"skybridge.server={server.id}"]})["Volumes"]
    return [volume["Name"] for volume in found or ()]


async def test_every_kind_of_container_finds_its_secrets(
    client: AsyncClient, server: Server, docker_client: docker.DockerClient
) -> None:
    await client.create_secret("db", GEHEIM)
    secrets = {"password": "db"}
    functions = [
        await deploy(client, READ, secrets=secrets),
        await deploy(client, READ, secrets=secrets, network="egress"),
        await deploy(client, READ, secrets=secrets, min_instances=1),
        await deploy_python(client, HTTP, secrets=secrets, contract="http"),
    ]
    for name in functions:
        execution = await client.execute(name)
        assert (told(execution)[0], execution.output) == ("SUCCEEDED", GEHEIM)

    # Another value is for containers that are created from now on: deploy again to have no others.
    await client.update_secret("db", b"new")
    for name in functions[:2]:
        assert (await client.execute(name)).output == b"new"
    for name in functions[2:]:
        assert [step async for step in client.deploy(name)]
        assert (await client.execute(name)).output == b"new"
    for name in functions:
        await client.delete_function(name, force=True)
    await asyncio.to_thread(server.settle)
    await asyncio.to_thread(wait_until, lambda: volumes(docker_client, server) == [], "no volume")
    await asyncio.to_thread(server.stop)


async def test_nobody_else_sees_them(client: AsyncClient, server: Server) -> None:
    await client.create_secret("db", GEHEIM)
    name = await deploy(client, GATED, secrets={"password": "db"})
    started = await client.start(name)
    await until_output(client, started.name)
    (container,) = await asyncio.to_thread(server.containers)
    assert GEHEIM[:20].decode() not in str(container.attrs)
    changed = await asyncio.to_thread(container.diff)  # what `docker commit` would take along
    assert [each["Path"] for each in changed] == ["/run", "/run/secrets"]
    container.kill("SIGUSR1")
    assert told(await client.wait(started.name))[0] == "SUCCEEDED"
    await asyncio.to_thread(server.stop)
    assert GEHEIM[:20].decode() not in server.log()
    for file in Path(server.setting("FAAS_DATABASE")).parent.iterdir():
        assert GEHEIM[:20] not in file.read_bytes(), file


async def test_what_outlives_a_server_keeps_them_and_leaves_nothing(
    client: AsyncClient, server: Server, docker_client: docker.DockerClient
) -> None:
    await client.create_secret("db", GEHEIM)
    name = await deploy(client, f"{GATED}; {READ}", secrets={"password": "db"})
    running, removed = [await client.start(name) for _ in range(2)]
    for execution in (running, removed):
        await until_output(client, execution.name)
    await asyncio.to_thread(server.kill)
    (gone,) = await asyncio.to_thread(server.containers, f"skybridge.execution={removed.name}")
    await asyncio.to_thread(gone.remove, force=True)  # as `docker rm` does, without its volume
    assert len(volumes(docker_client, server)) == 2
    await asyncio.to_thread(server.start)
    (container,) = await asyncio.to_thread(server.containers)
    container.kill("SIGUSR1")
    assert told(await client.wait(running.name))[0] == "SUCCEEDED"
    assert told(await client.wait(removed.name))[0] == "FAILED"
    await asyncio.to_thread(server.settle)
    await asyncio.to_thread(server.stop)
    assert volumes(docker_client, server) == []


async def test_without_its_key_all_but_them_goes_on(client: AsyncClient, server: Server) -> None:
    await client.create_secret("db", GEHEIM)
    name = await deploy(client, READ, secrets={"password": "db"})
    plain = await deploy(client, "echo out")
    key = Path(server.setting("FAAS_DATABASE") + "-key")
    await asyncio.to_thread(server.kill)
    key.rename(kept := key.with_suffix(".kept"))
    await asyncio.to_thread(server.start)

    assert (await client.execute(plain)).output == b"out\n"
    failed = await client.execute(name)
    assert told(failed) == ("FAILED", "START_FAILED")
    assert f"the key {key.name} beside the database is missing" in failed.failure.message
    with pytest.raises(FailedPreconditionError) as caught:
        await collect(client.deploy(name))  # type: ignore[arg-type]
    assert caught.value.reason == "SECRETS_SEALED"
    kept.rename(key)

    assert (await client.execute(name)).output == GEHEIM
    assert [step async for step in client.deploy(name)]
    await asyncio.to_thread(server.stop)


def test_the_command(server: Server, tmp_path: Path) -> None:
    def skybridge(*words: str, given: str = "") -> str:
        done = run(server.address, "skybridge", *words, given=given)
        assert done.code == 0, done.err
        return done.out

    skybridge("secrets", "create", "db", given="geheim")
    assert "6 B" in skybridge("secrets", "list")
    (tmp_path / "value").write_text("longer")
    skybridge("secrets", "update", "db", "--file", str(tmp_path / "value"))
    create = ("function", "create", "f", "--image", "skybridge-local/busybox", "--command", "cat")
    skybridge(*create, "--command", "/run/secrets/p", "--secret", "p=db", "--pull-policy", "never")
    skybridge("function", "deploy", "f")
    assert skybridge("run", "f") == "longer"
    skybridge("function", "delete", "f")
    skybridge("secrets", "delete", "db")
    server.stop()
