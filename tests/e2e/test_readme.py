"""The code of the README, run as it stands there, but with base images of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import docker
import pytest

from skybridge_client import Client
from tests.support.command import run
from tests.support.documents import README, blocks
from tests.support.functions import BUSYBOX, PYTHON, new_id
from tests.support.server import Server

pytestmark = pytest.mark.docker


def test_first_function(server: Server, docker_client: docker.DockerClient, tmp_path: Path) -> None:
    (block,) = (block for block in blocks(README, "sh") if "mkdir shout" in block)
    image = f"skybridge-test/{new_id('shout')}"
    script = block.replace(
        "skybridge up", f"skybridge up --build-arg BASE={PYTHON} --image-tag {image}"
    )
    done = run(server.address, "bash", "-euc", script, folder=tmp_path)
    assert (done.code, done.out) == (0, "HELLO\n"), done.err
    with Client(server.address) as client:
        client.delete_function("shout", force=True)
    server.settle()
    docker_client.images.remove(image)


def test_typed_client(server: Server) -> None:
    (program,) = blocks(README, "python")
    program = program.replace("127.0.0.1:50051", server.address).replace("busybox:1.36", BUSYBOX)
    done = run(server.address, sys.executable, "-c", program)
    assert done.code == 0, done.err
    assert "Hello, Ada\n 0\n" in done.out
    assert "output b'Hello, Grace\\n'" in done.out
    with Client(server.address) as client:
        client.delete_function("greet", force=True)
