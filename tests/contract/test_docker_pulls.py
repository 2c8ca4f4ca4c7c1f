"""Pulling images into a Docker Engine, from real registries on loopback."""

from __future__ import annotations

import asyncio
import io
import secrets
import shutil
import socket
import subprocess
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import bcrypt
import docker
import pytest

from skybridge_server.errors import (
    ImageAccessDeniedError,
    ImageNotFoundError,
    InvalidArgumentError,
    RegistryUnavailableError,
)
from skybridge_server.runtimes.base import Credentials, PullProgress
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.registry]

LAYER_BYTES = 2 << 20
LOGIN = Credentials("operator", "secret")
CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
AUTH = "auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}"


class Registry:
    """A registry that holds one image under `name` and `digest`."""

    def __init__(self, folder: Path, login: Credentials | None) -> None:
        self._folder = folder
        program = shutil.which("docker-registry")
        assert program, "install docker-registry"
        self.host = f"127.0.0.1:{free_port()}"
        self.name = f"{self.host}/private/{uuid.uuid4().hex[:8]}:1"
        auth = ""
        if login:
            auth = AUTH.format(folder=folder)
            secret = bcrypt.hashpw(login.password.encode(), bcrypt.gensalt(4)).decode()
            (folder / "htpasswd").write_text(f"{login.username}:{secret}\n")
        config = folder / "config.yml"
        port = self.host.partition(":")[2]
        config.write_text(CONFIG.format(folder=folder, port=port, auth=auth))
        log = (folder / "log").open("wb")
        with log:
            self._process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
        wait_until(self._answers, "the registry to answer")
        self._push(login)

    def lose_layers(self) -> None:
        """Forget everything that is big; what names it stays."""
        for blob in self._folder.glob("data/docker/registry/v2/blobs/sha256/*/*/data"):
            if blob.stat().st_size >= LAYER_BYTES:
                blob.unlink()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        host, _, port = self.host.partition(":")
        with socket.socket() as attempt:
            return attempt.connect_ex((host, int(port))) == 0

    def _push(self, login: Credentials | None) -> None:
        auth = {"username": login.username, "password": login.password} if login else None
        with closing(docker.from_env()) as client:
            repository, _, tag = self.name.rpartition(":")
            client.api.import_image_from_data(_layer(), repository=repository, tag=tag)
            output = client.images.push(self.name, auth_config=auth)
            assert "errorDetail" not in output, output
            (digest,) = (
                found
                for found in client.images.get(self.name).attrs["RepoDigests"]
                if found.startswith(self.host)
            )
            self.digest = str(digest)
            client.images.remove(self.name)


def _layer() -> bytes:
    """Return a file system that no engine has yet."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        content = secrets.token_bytes(LAYER_BYTES)
        entry = tarfile.TarInfo("content")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    made = Registry(tmp_path_factory.mktemp("public"), None)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    made = Registry(tmp_path_factory.mktemp("private"), LOGIN)
    yield made
    made.stop()


@pytest.fixture
async def runtime(public: Registry, private: Registry) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime()
    yield made
    await made.close()
    with closing(docker.from_env()) as client:
        for registry in (public, private):
            for reference in (registry.name, registry.digest):
                if client.images.list(reference):
                    client.images.remove(reference)


async def pull(
    runtime: DockerRuntime, reference: str, login: Credentials | None = None
) -> list[PullProgress]:
    return [progress async for progress in runtime.images.pull(reference, login)]


async def test_by_tag_with_progress(runtime: DockerRuntime, public: Registry) -> None:
    progress = await pull(runtime, public.name)
    assert progress
    assert all(step.layer and step.status for step in progress)
    image = await runtime.images.get(public.name)
    assert image
    assert image.digest == public.digest
    assert image.id.startswith("sha256:")


async def test_by_digest(runtime: DockerRuntime, public: Registry) -> None:
    await pull(runtime, public.digest)
    assert await runtime.images.get(public.digest)
    assert await runtime.images.get(public.name) is None


async def test_half_a_pull_is_given_up(runtime: DockerRuntime, public: Registry) -> None:
    begun = asyncio.Event()

    async def watch() -> None:
        async for _ in runtime.images.pull(public.name, None):
            begun.set()

    watching = asyncio.create_task(watch())
    await begun.wait()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    await pull(runtime, public.name)
    assert await runtime.images.get(public.name)


async def test_a_registry_that_lost_a_layer(runtime: DockerRuntime, tmp_path: Path) -> None:
    registry = Registry(tmp_path, None)
    try:
        registry.lose_layers()
        with pytest.raises(RegistryUnavailableError, match="cannot be pulled"):
            await pull(runtime, registry.name)
    finally:
        registry.stop()
    assert await runtime.images.get(registry.name) is None


async def test_with_credentials(runtime: DockerRuntime, private: Registry) -> None:
    await pull(runtime, private.name, LOGIN)
    assert await runtime.images.get(private.name)


async def test_with_the_credentials_of_the_operator(
    runtime: DockerRuntime, private: Registry
) -> None:
    assert await runtime.images.get(private.name) is None
    configured = DockerRuntime(credentials={private.host: LOGIN})
    await pull(configured, private.name)
    await configured.close()
    assert await runtime.images.get(private.name)


@pytest.mark.parametrize("login", [None, Credentials("operator", "wrong")])
async def test_without_the_right_credentials(
    runtime: DockerRuntime, private: Registry, login: Credentials | None
) -> None:
    with pytest.raises(ImageAccessDeniedError, match="credentials"):
        await pull(runtime, private.name, login)
    assert await runtime.images.get(private.name) is None


async def test_what_the_registry_lacks(runtime: DockerRuntime, public: Registry) -> None:
    for missing in (
        f"{public.name}-missing",
        f"{public.host}/no/such:1",
        f"{public.host}/no/such@sha256:{'0' * 64}",
    ):
        with pytest.raises(ImageNotFoundError, match="no registry has image"):
            await pull(runtime, missing)


async def test_a_registry_that_is_away(runtime: DockerRuntime) -> None:
    with pytest.raises(RegistryUnavailableError, match="connection refused"):
        await pull(runtime, f"127.0.0.1:{free_port()}/no/such:1")
    with pytest.raises(RegistryUnavailableError):
        await pull(runtime, "registry.invalid/no/such:1")


@pytest.mark.parametrize(
    "reference", ["https://registry/x", "UPPER/case", "-/x", "a//b", "a@sha256:12"]
)
async def test_what_is_no_reference(runtime: DockerRuntime, reference: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await pull(runtime, reference)
    assert [violation.field for violation in caught.value.violations] == ["image"]
