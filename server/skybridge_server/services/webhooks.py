"""Posts to URLs, signed as Standard Webhooks asks for.

What an answer says beyond its status is not of interest: only its start is read, no redirect is
followed, and nothing takes longer than a few seconds. The operator lists the hosts; no others are
spoken to, so that no function can be used to reach what only this machine can.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import http.client
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

TIMEOUT = 10.0
"""Seconds for each step of a post: to connect, to write, to read."""
ANSWER_BYTES = 4096
SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
SHORTEST_SECRET, LONGEST_SECRET = 24, 64


class PostError(Exception):
    """It did not arrive; the message says why."""


class Webhooks:
    """A few threads that post."""

    def __init__(self, allowed_hosts: tuple[str, ...], at_once: int) -> None:
        """`at_once`: how many posts may be under way; more wait."""
        self._allowed_hosts = allowed_hosts
        self._threads = ThreadPoolExecutor(at_once, "webhook")

    async def post(self, url: str, secret: str, uid: str, now: datetime, body: bytes) -> None:
        """Post JSON. PostError."""
        # The operator may have become stricter since the function was written.
        if why := refusal(url, self._allowed_hosts):
            raise PostError(f"url {why}")
        headers = {"content-type": "application/json", **signed(secret, uid, now, body)}
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, _post, urlsplit(url), headers, body)

    def close(self) -> None:
        """Let go of the threads; those that still post end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def refusal(url: str, allowed_hosts: tuple[str, ...]) -> str:
    """Return why nothing may be posted to an URL; '' if it may."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in {"http", "https"} or not host:
        return "must be http://HOST/... or https://HOST/..."
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must not contain a user, a password or a fragment"
    if not url.isascii() or any(not 0x21 <= ord(character) <= 0x7E for character in url):
        return "must have printable ASCII characters only"
    if not any(fnmatchcase(host, pattern.lower()) for pattern in allowed_hosts):
        return f"must be of a host in FAAS_WEBHOOK_HOSTS, which has {_listed(allowed_hosts)}"
    return ""


def key_of(secret: str) -> bytes:
    """Return the key of a secret. ValueError: it is none."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"must start with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be {SECRET_PREFIX} and base64") from None
    if not SHORTEST_SECRET <= len(key) <= LONGEST_SECRET:
        raise ValueError(
            f"must have {SHORTEST_SECRET} to {LONGEST_SECRET} bytes in base64, has {len(key)}"
        )
    return key


def signed(secret: str, uid: str, now: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks for a body."""
    timestamp = str(int(now.timestamp()))
    content = b".".join((uid.encode(), timestamp.encode(), body))
    digest = hmac.new(key_of(secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": uid,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _post(url: SplitResult, headers: dict[str, str], body: bytes) -> None:
    secure = url.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=TIMEOUT)
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        answer.read(ANSWER_BYTES)
        status = answer.status
    except (OSError, http.client.HTTPException) as error:
        raise PostError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise PostError(f"the answer was status {status}")


def _listed(hosts: tuple[str, ...]) -> str:
    return ", ".join(hosts) or "none"
