"""Examples that are nothing but commands: each does what its README says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from skybridge_client import Client
from tests.support.command import Ran, run
from tests.support.documents import ROOT, commands
from tests.support.functions import BUSYBOX
from tests.support.server import Server

pytestmark = pytest.mark.docker


@pytest.fixture
def word_count(server: Server) -> Iterator[None]:
    """The function of the examples, without a build."""
    with Client(server.address) as client:
        client.create_function("word-count", image=BUSYBOX, command=["wc", "-w"])
        list(client.deploy("word-count"))
        yield
        client.delete_function("word-count", force=True)


def ran(server: Server, example: str) -> list[Ran]:
    """Run the commands of an example, but for those that make the function."""
    done = []
    for words in commands(ROOT / "examples" / example / "README.md", "skybridge"):
        if words[1] != "up":
            done.append(run(server.address, *words, folder=ROOT))
            assert done[-1].code == 0, (words, done[-1].err)
    return done


def executed(server: Server) -> set[str]:
    with Client(server.address) as client:
        made = client.list_executions(filter='function = "word-count"')
        return {execution.name for execution in made}


@pytest.mark.usefixtures("word_count")
def test_what_is_repeated_happens_once(server: Server) -> None:
    before = executed(server)  # by other examples: executions outlive their function
    first, repeated, output, output_again = ran(server, "once")
    assert repeated.out == first.out
    assert (output.out, output_again.out) == ("3\n", "3\n")
    assert len(executed(server) - before) == 2


@pytest.mark.usefixtures("word_count")
def test_an_id_that_is_used_for_something_else_is_refused(server: Server) -> None:
    request = ("--request-id", str(uuid.uuid4()))
    assert run(server.address, "skybridge", "start", "word-count", "one", *request).code == 0
    other = run(server.address, "skybridge", "start", "word-count", "two", *request)
    assert other.code != 0
    assert "request" in other.err


@pytest.mark.usefixtures("word_count")
def test_what_a_function_did_is_kept_as_it_asks(server: Server) -> None:
    ran(server, "upkeep")
    with Client(server.address) as client:
        retention = client.get_function("word-count").spec.retention
    assert (retention.execution_age.seconds, retention.executions) == (7 * 86400, 1000)
