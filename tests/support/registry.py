"""A docker-registry on loopback, open or with a password, and images for it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import bcrypt
import docker
from docker.errors import ImageNotFound

from tests.support.functions import BUSYBOX
from tests.support.ports import free_port
from tests.support.waiting import wait_until

_CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "{host}"}}
{auth}
"""
MADE = f"skybridge-test/{os.getpid()}-"
"""How names of images begin that this process makes; others may run tests as well."""
_AUTH = "auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}"


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in a registry; the engine no longer has it under these names."""

    tag: str
    digest: str


class Registry:
    """Start it, push to it, stop it, start it again."""

    def __init__(self, folder: Path, login: dict[str, str] | None = None) -> None:
        """`login` has `username` and `password`; without it everybody may push and pull."""
        self.host = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._login = login
        auth = ""
        if login:
            secret = bcrypt.hashpw(login["password"].encode(), bcrypt.gensalt(4)).decode()
            (folder / "htpasswd").write_text(f"{login['username']}:{secret}\n")
            auth = _AUTH.format(folder=folder)
        config = _CONFIG.format(folder=folder, host=self.host, auth=auth)
        (folder / "config.yml").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("docker-registry")
        assert program, "install docker-registry"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "serve", self._folder / "config.yml"], stdout=log, stderr=log
            )
        wait_until(self._answers, "the registry to answer")

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        host, _, port = self.host.partition(":")
        with socket.socket() as attempt:
            return attempt.connect_ex((host, int(port))) == 0

    def push(self, client: docker.DockerClient, image: str, name: str = "") -> Pushed:
        """Push an image of the engine, as `name` or a new one, and forget its names there."""
        name = name or f"test/{uuid.uuid4().hex[:12]}:1"
        repository, _, tag = f"{self.host}/{name}".rpartition(":")
        client.images.get(image).tag(repository, tag)
        said = client.images.push(repository, tag, auth_config=self._login)
        assert "errorDetail" not in said, said
        digests = client.images.get(f"{repository}:{tag}").attrs["RepoDigests"]
        (digest,) = (each for each in digests if each.startswith(f"{repository}@"))
        forget(client, f"{repository}:{tag}", digest)
        return Pushed(f"{repository}:{tag}", digest)


def forget(client: docker.DockerClient, *references: str) -> None:
    """Take images, or names of images, from the engine; some may be gone."""
    for reference in references:
        try:
            client.images.remove(reference, force=True)
        except ImageNotFound:
            continue


def variant(client: docker.DockerClient) -> str:
    """Make a busybox that is another image than all others; return its name."""
    name = f"{MADE}{uuid.uuid4().hex[:12]}"
    container = client.containers.create(BUSYBOX)
    try:
        container.commit(name, "1", changes=f"LABEL variant={name}")
    finally:
        container.remove()
    return f"{name}:1"


def bare_image(
    client: docker.DockerClient, *, architecture: str = "", files: dict[str, bytes] | None = None
) -> str:
    """Make an image of a few files, without an entry point; return its name."""
    name = f"{MADE}{uuid.uuid4().hex[:12]}:1"
    layer = _tar(files or {"unique": name.encode()})
    config = {
        "architecture": architecture or client.version()["Arch"],
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    client.images.load(
        _tar(
            {
                "layer.tar": layer,
                "config.json": _json(config),
                "manifest.json": _json(manifest),
            }
        )
    )
    return name


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
