"""Webhooks: posts over real sockets, and which URLs and secrets may be used for them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from skybridge_server.services import webhooks
from skybridge_server.services.webhooks import PostError, Webhooks

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Notes what is posted to it; answers with a status of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 204
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook?a=b"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of their specification."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = webhooks.signed(
        secret,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_a_post_is_signed(receiver: Receiver) -> None:
    await Webhooks(("127.0.0.1",), 1).post(receiver.url, SECRET, "id-1", NOW, b"{}")
    ((headers, body),) = receiver.posts
    content = b"id-1.%d.{}" % NOW.timestamp()
    digest = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["content-type"] == "application/json"
    assert body == b"{}"


@pytest.mark.parametrize("status", [301, 404, 500])
async def test_another_status_is_a_failure_and_nothing_is_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.status = status
    with pytest.raises(PostError, match=f"status {status}"):
        await Webhooks(("127.0.0.1",), 1).post(receiver.url, SECRET, "id-1", NOW, b"{}")
    assert len(receiver.posts) == 1


async def test_nobody_answers() -> None:
    with pytest.raises(PostError, match="Refused"):
        await Webhooks(("127.0.0.1",), 1).post("http://127.0.0.1:1/", SECRET, "id", NOW, b"{}")


async def test_a_host_that_is_no_longer_allowed_is_not_spoken_to(receiver: Receiver) -> None:
    with pytest.raises(PostError, match="FAAS_WEBHOOK_HOSTS"):
        await Webhooks(("*.example.test",), 1).post(receiver.url, SECRET, "id", NOW, b"{}")
    assert not receiver.posts


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://a.example.test/", "must be http"),
        ("http:///x", "must be http"),
        ("http://[::1", "is no URL"),
        ("http://a.example.test:x/", "is no URL"),
        ("http://user@a.example.test/", "must not contain a user"),
        ("http://a.example.test/#x", "fragment"),
        ("http://a.example.test/ x", "ASCII"),
        ("http://a.example.test/\r\nx: y", "ASCII"),
        ("http://example.org/", "FAAS_WEBHOOK_HOSTS"),
        ("http://example.test.org/", "FAAS_WEBHOOK_HOSTS"),
        ("https://A.example.test:8443/x?y=z", ""),
    ],
)
def test_urls(url: str, why: str) -> None:
    found = webhooks.refusal(url, ("*.example.test",))
    assert why in found
    assert bool(why) == bool(found)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_???", "k" * 32, "whsec_" + "aaaa" * 4])
def test_what_is_no_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="must "):
        webhooks.key_of(secret)
