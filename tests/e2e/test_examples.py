"""Every example does what its README says, on a real server and engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import docker
import pytest

from skybridge_client import Client
from tests.support.command import PROGRAMS, Ran, run
from tests.support.documents import ROOT
from tests.support.functions import BUSYBOX, PYTHON, new_id
from tests.support.server import Server
from tests.support.waiting import wait_until

EXAMPLES = ROOT / "examples"
NODE = "skybridge-local/node:20"
PACKAGES = "skybridge-local/python-packages:3.11"

pytestmark = pytest.mark.docker


class Examples:
    """Makes examples ready, and removes them; their images have names of their own."""

    def __init__(self, server: Server, engine: docker.DockerClient) -> None:
        self._server = server
        self._engine = engine
        self._images: dict[str, str] = {}

    def up(self, name: str, base: str) -> None:
        """Build and deploy an example as a user does."""
        image = f"skybridge-test/{new_id(name)}"
        done = self.run(
            "skybridge", "up", f"examples/{name}", "--build-arg", f"BASE={base}",
            "--image-tag", image,
        )  # fmt: skip
        assert done.code == 0, done.err
        self._images[name] = image

    def run(self, *words: str, given: str = "", **environment: str) -> Ran:
        return run(self._server.address, *words, given=given, folder=ROOT, **environment)

    def discard(self) -> None:
        with Client(self._server.address) as client:
            for name in self._images:
                client.delete_function(name, force=True)
        self._server.settle()
        for image in self._images.values():
            self._engine.images.remove(image)


@pytest.fixture(scope="module")
def examples(server: Server, docker_client: docker.DockerClient) -> Iterator[Examples]:
    made = Examples(server, docker_client)
    yield made
    made.discard()


@pytest.fixture(scope="module")
def hello_world(examples: Examples) -> Examples:
    examples.up("hello-world", PYTHON)
    return examples


def test_hello_world_passes_its_own_test() -> None:
    subprocess.run(
        [sys.executable, EXAMPLES / "hello-world/test_function.py"], check=True, capture_output=True
    )


def test_hello_world_greets(hello_world: Examples) -> None:
    ada = hello_world.run("skybridge", "run", "hello-world", "Ada")
    assert ada == Ran(0, "Hello, Ada!\n", "names on the input: 1\n")
    nobody = hello_world.run("skybridge", "run", "hello-world")
    assert nobody == Ran(0, "Hello, world!\n", "names on the input: 0\n")


@pytest.mark.usefixtures("hello_world")
def test_hello_world_answers_while_its_input_goes_on(server: Server) -> None:
    process = subprocess.Popen(
        [PROGRAMS / "skybridge", "--address", server.address, "run", "-i", "hello-world"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process:
        for name in ("Ada", "Grace"):
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"Hello, {name}!\n"
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_word_count_tells_its_verdict_by_exit_code(examples: Examples) -> None:
    examples.up("word-count", BUSYBOX)
    counted = examples.run("skybridge", "run", "word-count", "one two three")
    assert (counted.code, counted.out) == (0, "3 words\n")
    assert "counts for namespaces/default/functions/word-count" in counted.err
    empty = examples.run("skybridge", "run", "word-count", "")
    assert (empty.code, empty.out) == (3, "")
    assert empty.err.endswith("the input has no words\n")


def test_pretty_json_sorts_keys(examples: Examples, docker_client: docker.DockerClient) -> None:
    if not docker_client.images.list(NODE):
        pytest.skip("this machine has no Node to make an image of")
    examples.up("pretty-json", NODE)
    done = examples.run("skybridge", "run", "pretty-json", given='{"b": 1, "a": [true]}')
    assert (done.code, list(json.loads(done.out).items())) == (0, [("a", [True]), ("b", 1)])
    assert examples.run("skybridge", "run", "pretty-json", "no").code == 2


def test_functions_framework_greets(examples: Examples) -> None:
    examples.up("functions-framework", PACKAGES)
    for _ in range(2):
        ada = examples.run("skybridge", "run", "functions-framework", "Ada")
        assert (ada.code, ada.out) == (0, "Hello, Ada!\n"), ada.err
    nobody = examples.run("skybridge", "run", "functions-framework", "nobody")
    assert nobody.code != 0
    assert nobody.out == "there is nobody to greet\n"
    assert "answered 422" in nobody.err


def test_a_web_server_shouts(examples: Examples, docker_client: docker.DockerClient) -> None:
    if not docker_client.images.list(NODE):
        pytest.skip("this machine has no Node to make an image of")
    examples.up("http-server", NODE)
    for _ in range(2):
        done = examples.run("skybridge", "run", "http-server", given="hello\n")
        assert (done.code, done.out) == (0, "HELLO\n"), done.err


def test_a_lambda_function_greets(examples: Examples) -> None:
    examples.up("lambda", PACKAGES)
    for _ in range(2):
        ada = examples.run("skybridge", "run", "lambda", '{"name": "Ada"}')
        assert ada.code == 0, ada.err
        assert json.loads(ada.out) == {"greeting": "Hello, Ada!", "function": "lambda"}
    nobody = examples.run("skybridge", "run", "lambda", "{}")
    assert nobody.code != 0
    assert "ValueError: the event has no name" in nobody.err
    assert json.loads(nobody.out)["errorType"] == "ValueError"


def test_progress_streams_and_ends_well_when_cancelled(server: Server, examples: Examples) -> None:
    examples.up("progress", PYTHON)
    done = examples.run("skybridge", "run", "progress", "2")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines == [{"done": 1, "of": 2}, {"done": 2, "of": 2}, {"finished": True, "done": 2}]

    with Client(server.address) as client:
        execution = client.start("progress", b"1000").name
        wait_until(lambda: client.get_execution(execution).stdout_bytes, "the first step")
        client.cancel(execution)
        cancelled = client.wait(execution)
    last = json.loads(cancelled.output.splitlines()[-1])
    assert last["finished"] is False
    assert cancelled.log_tail == b"told to stop\n"


def test_typed_client_gets_results_and_follows(hello_world: Examples) -> None:
    done = hello_world.run(sys.executable, "examples/typed-client/greetings.py")
    assert done.code == 0, done.err
    assert [line for line in done.out.splitlines() if line.startswith("Hello")] == [
        "Hello, Ada!",
        "Hello, Grace!",
        "Hello, Alan!",
    ]
    assert "running" in done.out.splitlines()


def test_typed_client_names_what_is_wrong() -> None:
    done = run("127.0.0.1:1", sys.executable, str(EXAMPLES / "typed-client/greetings.py"))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("UnavailableError: ")


def test_grpcurl_walks_through_the_api(server: Server, examples: Examples) -> None:
    done = examples.run("examples/grpcurl/walk", IMAGE=BUSYBOX)
    assert done.code == 0, done.err
    assert '"output": "SGVsbG8sIHdvcmxkCg=="' in done.out
    assert '"state": "EXECUTION_STATE_SUCCEEDED"' in done.out
    assert "function.spec.resources.pids" in done.err
    assert '"state": "DELIVERY_STATE_DELIVERED"' in done.out
    assert '"skybridge.caused-by"' in done.out
    assert '"status": "SERVING"' in done.out
    with Client(server.address) as client:
        assert not [f for f in client.list_functions() if "/grpcurl-walk" in f.name]
