"""Rules over functions whose instances are kept, and over what goes with an input to them."""

from __future__ import annotations

import re
from datetime import timedelta

from skybridge_server.models.executions import Envelope
from skybridge_server.models.functions import (
    KIB,
    Contract,
    ContractKind,
    Durability,
    FunctionSpec,
    InputMode,
    Reuse,
    Scaling,
    Timeouts,
)
from skybridge_server.services.limits import Limits
from skybridge_server.services.violations import Violations, check_between

MAX_INSTANCES = 1000
MAX_PATH_LENGTH = 2048
MAX_CONTENT_TYPE_LENGTH = 255
MAX_HEADERS = 64
MAX_HEADERS_BYTES = 16 * KIB

_PATH = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?")
_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "traceparent",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to the connection, or that have a field of their own."""

_DAY = timedelta(days=1)
_NEEDS_WARM = "needs contract.kind HTTP or LAMBDA: with STDIO, each execution has its container"


def check(spec: FunctionSpec, limits: Limits, prefix: str, wrong: Violations) -> None:
    """Check what only functions may set whose instances are kept."""
    if spec.contract.kind is not ContractKind.HTTP:
        _check_not_http(spec.contract, prefix, wrong)
    if spec.contract.kind.warm:
        _check_contract(spec.contract, f"{prefix}.contract", wrong)
        _check_counts(spec.scaling, limits, f"{prefix}.scaling", wrong)
        _check_times(spec, prefix, wrong)
        _check_room(spec, limits, f"{prefix}.resources", wrong)
    else:
        _check_not_warm(spec, prefix, wrong)
        _check_ahead(spec, limits, prefix, wrong)


def check_envelope(envelope: Envelope, prefix: str, wrong: Violations) -> None:
    """Check what a caller sends with an input."""
    kind, headers = envelope.content_type, envelope.headers
    if len(kind) > MAX_CONTENT_TYPE_LENGTH or (kind and not _CONTENT_TYPE.fullmatch(kind)):
        wrong.add(
            f"{prefix}.content_type",
            f"must be a media type of at most {MAX_CONTENT_TYPE_LENGTH} printable characters",
        )
    field = f"{prefix}.headers"
    if len(headers) > MAX_HEADERS:
        wrong.add(field, f"must have at most {MAX_HEADERS} entries, has {len(headers)}")
        return
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > MAX_HEADERS_BYTES:
        wrong.add(field, f"must have at most {MAX_HEADERS_BYTES} bytes in all, has {size}")
        return
    for name, value in headers.items():
        reason = _refusal(name, value)
        if reason:
            wrong.add(f"{field}[{name[:63]!r}]", reason)


def refuse_envelope(envelope: Envelope, wrong: Violations) -> None:
    """Refuse what a process that reads stdin would never see."""
    if envelope.content_type:
        wrong.add("options.content_type", "the function's contract is STDIO, which has none")
    if envelope.headers:
        wrong.add("options.headers", "the function's contract is STDIO, which has none")


def _refusal(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return "name must be a token: letters, digits and !#$%&'*+-.^_`|~"
    if name.lower() in _OURS:
        return "belongs to the connection, or has a field of its own"
    if name.lower().startswith("x-skybridge-"):
        return "names that start with x-skybridge- are reserved"
    if not _VALUE.fullmatch(value):
        return "must have no control characters, and no space at its ends"
    return None


def _check_contract(contract: Contract, prefix: str, wrong: Violations) -> None:
    if contract.input is not InputMode.STDIN:
        wrong.add(f"{prefix}.input", "needs contract.kind STDIO")
    if not 1 <= contract.port <= 65535:
        wrong.add(f"{prefix}.port", f"must be between 1 and 65535, is {contract.port}")
    for name, path in (("path", contract.path), ("health_path", contract.health_path)):
        if path and (len(path) > MAX_PATH_LENGTH or not _PATH.fullmatch(path)):
            wrong.add(
                f"{prefix}.{name}",
                f"must start with / and have at most {MAX_PATH_LENGTH} printable characters of"
                " ASCII without spaces",
            )


def _check_not_http(contract: Contract, prefix: str, wrong: Violations) -> None:
    usual = Contract()
    for name in ("port", "path", "health_path"):
        if getattr(contract, name) != getattr(usual, name):
            wrong.add(f"{prefix}.contract.{name}", "needs contract.kind HTTP")


def _check_not_warm(spec: FunctionSpec, prefix: str, wrong: Violations) -> None:
    usual = Scaling()
    for name in (
        "max_instances",
        "instance_concurrency",
        "max_executions_per_instance",
        "reuse",
        "pause_after",
    ):
        if getattr(spec.scaling, name) != getattr(usual, name):
            wrong.add(f"{prefix}.scaling.{name}", _NEEDS_WARM)
    if spec.timeouts.idle != Timeouts().idle:
        wrong.add(f"{prefix}.timeouts.idle", _NEEDS_WARM)
    if spec.durability is not Durability.COMMITTED:
        wrong.add(f"{prefix}.durability", _NEEDS_WARM)


def _check_ahead(spec: FunctionSpec, limits: Limits, prefix: str, wrong: Violations) -> None:
    """Check what is created before there is an input."""
    _check_minimum(spec.scaling, limits, f"{prefix}.scaling", wrong)
    if spec.scaling.min_instances and spec.contract.input is InputMode.ENV:
        wrong.add(
            f"{prefix}.contract.input",
            "must be STDIN with scaling.min_instances: the environment of a container that is"
            " created ahead cannot hold its input",
        )


def _check_minimum(scaling: Scaling, limits: Limits, prefix: str, wrong: Violations) -> None:
    most = min(MAX_INSTANCES, limits.max_instances)
    if not 0 <= scaling.min_instances <= most:
        wrong.add(
            f"{prefix}.min_instances",
            f"must be between 0 and {most}, is {scaling.min_instances};"
            " see the server's FAAS_MAX_INSTANCES",
        )


def _check_counts(scaling: Scaling, limits: Limits, prefix: str, wrong: Violations) -> None:
    _check_minimum(scaling, limits, prefix, wrong)
    for name, value, low, high in (
        ("max_instances", scaling.max_instances, 0, MAX_INSTANCES),
        ("instance_concurrency", scaling.instance_concurrency, 1, 1000),
        ("max_executions_per_instance", scaling.max_executions_per_instance, 0, 10**9),
    ):
        if not low <= value <= high:
            wrong.add(f"{prefix}.{name}", f"must be between {low} and {high}, is {value}")
    if 0 < scaling.max_instances < scaling.min_instances:
        wrong.add(f"{prefix}.max_instances", "must not be less than min_instances")
    if scaling.reuse is Reuse.NEVER and scaling.instance_concurrency > 1:
        wrong.add(f"{prefix}.instance_concurrency", "must be 1 where reuse is NEVER")
    if scaling.reuse is Reuse.NEVER and scaling.max_executions_per_instance > 1:
        wrong.add(f"{prefix}.max_executions_per_instance", "must be 0 or 1 where reuse is NEVER")


def _check_times(spec: FunctionSpec, prefix: str, wrong: Violations) -> None:
    second = timedelta(seconds=1)
    check_between(spec.timeouts.idle, second, _DAY, f"{prefix}.timeouts.idle", wrong)
    pause_after = spec.scaling.pause_after
    if pause_after:
        check_between(pause_after, second / 4, _DAY, f"{prefix}.scaling.pause_after", wrong)


def _check_room(spec: FunctionSpec, limits: Limits, prefix: str, wrong: Violations) -> None:
    """Check that an instance fits at all, or executions would wait for it in vain."""
    for name, value, most, setting in (
        (
            "memory_bytes",
            spec.resources.memory_bytes,
            limits.instance_memory_bytes,
            "FAAS_INSTANCE_MEMORY_BYTES",
        ),
        (
            "cpu_millis",
            spec.resources.cpu_millis,
            limits.instance_cpu_millis,
            "FAAS_INSTANCE_CPU_MILLIS",
        ),
    ):
        if value > most:
            wrong.add(f"{prefix}.{name}", f"must be at most {most}, the server's {setting}")
