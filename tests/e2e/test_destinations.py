"""Destinations on a real server and engine, with a receiver on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from skybridge_client import AsyncClient, Client, InvalidArgumentError
from skybridge_client.messages import DeliveryState
from tests.support.command import run
from tests.support.documents import ROOT, commands
from tests.support.functions import BUSYBOX, deploy, told
from tests.support.ports import free_port
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
EXAMPLE = ROOT / "examples" / "destinations" / "README.md"
KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver(ThreadingHTTPServer):
    """Takes posts whose signature is right."""

    posts: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        stamp = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}."
        digest = hmac.new(KEY, stamp.encode() + body, hashlib.sha256).digest()
        right = self.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        if right:
            self.server.posts.append({"id": self.headers["webhook-id"], **json.loads(body)})
        self.send_response(200 if right else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> int:
    return free_port()


def listen(port: int) -> Receiver:
    receiver = Receiver(("127.0.0.1", port), Handler)
    receiver.posts = []
    Thread(target=receiver.serve_forever).start()
    return receiver


async def test_a_receiver_that_was_away_hears_of_it_from_a_killed_server(
    serve: Serve, port: int
) -> None:
    server = serve(FAAS_WEBHOOK_HOSTS="127.0.0.1")
    url = f"http://127.0.0.1:{port}/hook"
    async with AsyncClient(server.address) as client:
        name = await deploy(
            client, "echo out; exit 3", on_failure_url=url, on_failure_secret=SECRET
        )
        shown = await client.get_function(name)
        assert shown.spec.destinations.on_failure.url == url
        assert not shown.spec.destinations.on_failure.secret
        started = await client.start(name)
        await client.wait(started.name, timeout=PATIENCE)

        async def tried() -> bool:
            (delivery,) = (await client.get_execution(started.name)).deliveries
            return delivery.attempts > 0

        await until(tried, "a delivery to be tried")
        await asyncio.to_thread(server.kill)
        receiver = listen(port)
        try:
            await asyncio.to_thread(server.start)

            async def delivered() -> bool:
                (delivery,) = (await client.get_execution(started.name)).deliveries
                return delivery.state == DeliveryState.DELIVERY_STATE_DELIVERED

            await until(delivered, "a delivery")
        finally:
            await asyncio.to_thread(receiver.shutdown)
            receiver.server_close()
        assert len({post["id"] for post in receiver.posts}) == 1
        assert receiver.posts[0]["type"] == "execution.failed"
        assert receiver.posts[0]["data"]["execution"] == started.name
        assert receiver.posts[0]["data"]["output"] == "out\n"
        log = await asyncio.to_thread(
            Path(server.setting("FAAS_DATABASE")).with_name("server.log").read_text
        )
        assert SECRET not in log
    await asyncio.to_thread(server.stop)


async def test_no_host_is_allowed_unless_the_operator_says_so(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgumentError, match="FAAS_WEBHOOK_HOSTS"):
        await client.create_function(
            "tells", image=BUSYBOX, on_success_url="http://127.0.0.1/", on_success_secret=SECRET
        )


@pytest.fixture
def functions(server: Server) -> Iterator[None]:
    """The functions of the example, without a build."""
    with Client(server.address) as client:
        for name, command in (("pretty-json", ["cat"]), ("word-count", ["wc", "-w"])):
            client.create_function(name, image=BUSYBOX, command=command)
            list(client.deploy(name))
        yield
        for name in ("pretty-json", "word-count"):
            client.delete_function(name, force=True)


@pytest.mark.usefixtures("functions")
def test_the_example_does_what_it_says(server: Server) -> None:
    with Client(server.address) as client:
        for words in commands(EXAMPLE, "skybridge"):
            if words[1] == "up":
                continue
            if words[1] == "executions":
                wait_until(
                    lambda: any(
                        told(each)[0] == "SUCCEEDED"
                        for each in client.list_executions(filter='function = "pretty-json"')
                    ),
                    "the other function to be called",
                    PATIENCE,
                )
            done = run(server.address, *words, folder=ROOT)
            assert done.code == 0, (words, done.err)
        ((told_of,)) = [json.loads(done.out)]
    assert told_of["data"]["output"] == "3\n"
    assert told_of["type"] == "execution.succeeded"
