"""How a connection to a server is made: address, TLS, retries, signs of life."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

from skybridge.faas.v1 import (
    dead_letter_service_pb2,
    execution_service_pb2,
    function_service_pb2,
    instance_service_pb2,
    metrics_service_pb2,
    schedule_service_pb2,
    secret_service_pb2,
    system_service_pb2,
    token_service_pb2,
)

DEFAULT_ADDRESS = "127.0.0.1:50051"

_MIB = 1024 * 1024
_READS = ("Get", "List", "Wait")


@dataclass(frozen=True)
class TlsConfig:
    """Files for TLS, all PEM.

    `ca` alone checks the server against it instead of the system's authorities; `cert` and
    `key` together also show the server who calls (mutual TLS).
    """

    ca: Path | str | None = None
    """Certificates of the authorities that are trusted. Default: the system's."""
    cert: Path | str | None = None
    """The caller's certificate, with its chain."""
    key: Path | str | None = None
    """The key of `cert`."""

    def __post_init__(self) -> None:
        """Raises ValueError when only one of `cert` and `key` is given."""
        if bool(self.cert) != bool(self.key):
            raise ValueError("TLS: a client certificate needs both its cert and its key")

    @classmethod
    def from_environment(cls) -> TlsConfig | None:
        """What SKYBRIDGE_TLS_CA, _CERT and _KEY say; None when none of them is set."""
        files = {name: os.environ.get(f"SKYBRIDGE_TLS_{name.upper()}") for name in _TLS_FILES}
        return cls(**files) if any(files.values()) else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises OSError when one cannot be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))


_TLS_FILES = ("ca", "cert", "key")


def _read(path: Path | str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def resolve_address(address: str | None) -> str:
    """The given address, or SKYBRIDGE_ADDRESS, or the default."""
    return address or os.environ.get("SKYBRIDGE_ADDRESS") or DEFAULT_ADDRESS


def resolve_tls(tls: TlsConfig | bool | None) -> grpc.ChannelCredentials | None:
    """The credentials of a channel; None for a channel without TLS.

    True means TLS with the system's authorities, False none whatever the environment says,
    None what the environment says.
    """
    config = TlsConfig.from_environment() if tls is None else tls
    if config is True:
        config = TlsConfig()
    return config.credentials() if config else None


def resolve_token(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that says who calls: the given token, or SKYBRIDGE_TOKEN; else none.

    Raises ValueError for a token that cannot be sent.
    """
    secret = os.environ.get("SKYBRIDGE_TOKEN", "") if token is None else token
    if not secret:
        return ()
    if not re.fullmatch(r"[!-~]+", secret):
        source = "SKYBRIDGE_TOKEN" if token is None else "the token"
        raise ValueError(f"{source} must have only visible characters of ASCII, and no spaces")
    return (("authorization", f"Bearer {secret}"),)


def options(address: str) -> list[tuple[str, Any]]:
    """The options of every channel."""
    return [
        ("grpc.max_receive_message_length", 8 * _MIB),
        # A silent peer is noticed after 30 + 10 s, on calls that have no deadline as well.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # After a restart of the server, be back within seconds and not within minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A request is repeated only while it fits in here, and input may be 3 MiB.
        ("grpc.per_rpc_retry_buffer_size", 4 * _MIB),
        ("grpc.service_config", service_config()),
        ("grpc.service_config_disable_resolution", 1),
        # A proxy for the outside must not be asked for the way to this machine.
        ("grpc.enable_http_proxy", int(not _is_loopback(address))),
    ]


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host.startswith("127.") or host in ("::1", "localhost") or address.startswith("unix:")


def service_config() -> str:
    """Which calls gRPC itself repeats, as service config JSON.

    Streams are left out: those of executions resume themselves, see journal.py.
    """
    methods = [
        {"service": service.full_name, "method": method.name}
        for service in _services()
        for method in service.methods
        if is_repeatable(method)
    ]
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": methods, "retryPolicy": policy}]})


def is_repeatable(method: MethodDescriptor) -> bool:
    """Whether a repeat does no harm: the call only reads, or its request id tells repeats."""
    if method.server_streaming:
        return False
    return method.name.startswith(_READS) or _tells_repeats(method.input_type)


def _tells_repeats(request: Descriptor) -> bool:
    """Whether a request, or each of the requests in it, has a request id."""
    return "request_id" in request.fields_by_name or any(
        field.message_type is not None and "request_id" in field.message_type.fields_by_name
        for field in request.fields
    )


def _services() -> list[ServiceDescriptor]:
    files = (
        function_service_pb2,
        execution_service_pb2,
        instance_service_pb2,
        metrics_service_pb2,
        dead_letter_service_pb2,
        schedule_service_pb2,
        secret_service_pb2,
        system_service_pb2,
        token_service_pb2,
    )
    return [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
