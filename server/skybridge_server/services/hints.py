"""Why a function may have failed: our safe defaults, recognised by what it wrote to stderr."""

from __future__ import annotations

from collections.abc import Iterator

from skybridge_server.models.functions import FunctionSpec, Network

_NETWORK = (
    "network is unreachable",
    "network unreachable",
    "name resolution",
    "name or service not known",
    "bad address",
    "could not resolve",
    "enetunreach",
    "eai_again",
)
_READ_ONLY = ("read-only file system",)
_PERMISSION = ("permission denied", "operation not permitted", "permissionerror")
_PIDS = ("resource temporarily unavailable", "can't fork", "can't start new thread")
_SPACE = ("no space left on device",)


def hint(spec: FunctionSpec, log_tail: bytes) -> str:
    """Return which field opens what the function ran into; '' if nothing tells."""
    log = log_tail.decode(errors="replace").lower()
    return "; ".join(advice for signs, advice in _hints(spec) if any(sign in log for sign in signs))


def _hints(spec: FunctionSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    if not spec.isolation.writable_root:
        yield _READ_ONLY, "it can only write to /tmp, unless spec.isolation.writable_root is set"
    if spec.network is Network.NONE:
        yield _NETWORK, "it has no network; spec.network EGRESS opens it"
    yield _PERMISSION, "it runs as spec.isolation.user, without capabilities"
    yield _PIDS, "it may start spec.resources.pids processes and threads"
    yield _SPACE, "its /tmp holds spec.resources.tmp_bytes"
