"""The client in an environment of its own: it brings nothing of the server, and works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from skybridge_client import Client
from tests.support.command import run
from tests.support.documents import ROOT, blocks
from tests.support.functions import BUSYBOX
from tests.support.server import Server

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheels of client and generated code, and what they ask for, into a new one."""
    folder = tmp_path_factory.mktemp("client")
    for project in ("generated", "client"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=ROOT / project, check=True, capture_output=True)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    pip(environment, "install", "--quiet", *constraints, *map(str, folder.glob("*.whl")))
    return environment


def pip(environment: Path, *arguments: str) -> str:
    python = environment / "bin/python"
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_brings_nothing_of_the_server(environment: Path) -> None:
    installed = {line.partition("==")[0] for line in pip(environment, "freeze").splitlines()}
    assert {name.partition(" @ ")[0] for name in installed} == {
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
        "skybridge-faas-client",
        "skybridge-faas-proto",
        "typing_extensions",  # grpcio's
    }


@pytest.mark.parametrize("number", [0, 1], ids=["sync", "async"])
def test_the_examples_of_its_readme_run(server: Server, environment: Path, number: int) -> None:
    program = blocks(ROOT / "client/README.md", "python")[number]
    greet = "while read -r name || [ $name ]; do echo Hello, $name!; done"
    with Client(server.address) as client:
        client.create_function("hello-world", image=BUSYBOX, command=["sh", "-c", greet])
        list(client.deploy("hello-world"))
        done = run(server.address, environment / "bin/python", "-c", program)
        client.delete_function("hello-world", force=True)
    assert done.code == 0, done.err
    assert "Hello, Ada!\n" in done.out
    assert "Hello, Grace!\n" in done.out
