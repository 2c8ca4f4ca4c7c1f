"""Makes a gRPC server listen, or says in one line why it cannot."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc

from skybridge_server.config import Address, SettingsError


def listen(
    server: grpc.aio.Server,
    setting: str,
    address: Address,
    credentials: grpc.ServerCredentials | None = None,
) -> Address:
    """Listen, and return where; port 0 asks for a free one. SettingsError, named by the setting."""
    try:
        check_free(address)
        if credentials is None:
            port = server.add_insecure_port(str(address))
        else:
            port = server.add_secure_port(str(address), credentials)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError.of(setting, f"cannot listen on {address}: {reason}") from None
    return address if address.path else Address(address.host, port)


def check_free(address: Address) -> None:
    """Bind as gRPC will, since that one tells no reason. OSError."""
    if address.path:
        _try_path(address.path)
        return
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _try_path(path: str) -> None:
    """Look whether somebody listens: gRPC would take the path of a living server away."""
    if not os.access(Path(path).parent, os.W_OK):
        raise PermissionError(13, f"no folder {Path(path).parent}, or no right to write there")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(98, "another server listens there")
