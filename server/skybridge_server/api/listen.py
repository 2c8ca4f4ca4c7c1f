"""Binds the sockets that a server listens on, or says in one line why it cannot."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from skybridge_server.config import Address, SettingsError


def bind(setting: str, address: Address) -> list[socket.socket]:
    """Return bound sockets, one for each address of a host. SettingsError, named by the setting."""
    try:
        return [_bind_path(address.path)] if address.path else _bind_host(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError.of(setting, f"cannot listen on {address}: {reason}") from None


def bound(address: Address, sockets: list[socket.socket]) -> Address:
    """Return where sockets listen: port 0 asked for a free one."""
    return address if address.path else Address(address.host, sockets[0].getsockname()[1])


def check_free(address: Address) -> None:
    """Look whether a server could listen there. OSError."""
    if address.path:
        _check_path(address.path)
    else:
        for each in _bind_host(address):
            each.close()


def _bind_host(address: Address) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and address.host == "::":
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            each.bind((where[0], port, *where[2:]))
            each.listen()  # two may be bound to one port, but only one may listen
            port = each.getsockname()[1]
    except OSError:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bind_path(path: str) -> socket.socket:
    _check_path(path)
    if Path(path).is_socket():
        Path(path).unlink()  # of a server that was killed
    each = socket.socket(socket.AF_UNIX)
    try:
        each.bind(path)
    except OSError:
        each.close()
        raise
    return each


def _check_path(path: str) -> None:
    """See that no server that lives is there, to take the path from. OSError."""
    if not os.access(Path(path).parent, os.W_OK):
        raise PermissionError(13, f"no folder {Path(path).parent}, or no right to write there")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(98, "another server listens there")
