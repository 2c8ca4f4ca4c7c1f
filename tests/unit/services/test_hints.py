"""A failure that a safe default explains says which field opens it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skybridge_server.models.functions import FunctionSpec, Isolation, Network
from skybridge_server.services.hints import hint

SAFE = FunctionSpec("busybox")
OPEN = replace(SAFE, network=Network.EGRESS, isolation=Isolation(writable_root=True))


@pytest.mark.parametrize(
    ("log", "field"),
    [
        (b"sh: can't create /x: Read-only file system", "spec.isolation.writable_root"),
        (b"OSError: [Errno 30] Read-only file system: '/app/x'", "spec.isolation.writable_root"),
        (b"wget: bad address 'example.com'", "spec.network"),
        (b"socket.gaierror: [Errno -3] Temporary failure in name resolution", "spec.network"),
        (b"Error: getaddrinfo EAI_AGAIN example.com", "spec.network"),
        (b"connect: Network is unreachable", "spec.network"),
        (b"PermissionError: [Errno 13] Permission denied: '/etc/x'", "spec.isolation.user"),
        (b"mount: Operation not permitted", "spec.isolation.user"),
        (b"sh: can't fork: Resource temporarily unavailable", "spec.resources.pids"),
        (b"RuntimeError: can't start new thread", "spec.resources.pids"),
        (b"dd: No space left on device", "spec.resources.tmp_bytes"),
    ],
)
def test_signs(log: bytes, field: str) -> None:
    assert field in hint(SAFE, b"some line\n" + log + b"\xff\n")


def test_no_advice_without_a_sign() -> None:
    assert hint(SAFE, b"ValueError: no such colour") == ""


def test_what_is_open_already_is_not_advised() -> None:
    log = b"Read-only file system; Network is unreachable"
    assert hint(OPEN, log) == ""
    assert hint(SAFE, log).count(";") == 2
