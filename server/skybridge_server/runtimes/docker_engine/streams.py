"""Requests that outlive their headers: who makes one keeps its connection."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
from docker import APIClient
from docker.errors import create_api_error_from_http_exception


def open_stream(
    client: APIClient,
    path: str,
    params: Mapping[str, str | int],
    headers: Mapping[str, str],
    *,
    method: str = "POST",
    patient: bool = False,
) -> requests.Response:
    """Ask, and return once the headers are there; raises docker-py's APIError.

    `patient` waits without end for them, and for the rest.
    """
    response = client.request(
        method,
        f"{client.base_url}/v{client.api_version}{path}",
        params=dict(params),
        headers=dict(headers),
        stream=True,
        timeout=(client.timeout, None if patient else client.timeout),
    )
    try:
        response.raise_for_status()
    except requests.HTTPError as error:
        create_api_error_from_http_exception(error)
    return response


def take_over(response: requests.Response) -> tuple[socket.socket, bytes]:
    """Part a response from its socket, and from what of it was read already.

    docker-py's attach_socket would lose the latter.
    """
    raw: Any = response.raw
    buffered = raw._fp.fp  # noqa: SLF001 - nothing public leads there
    connected: socket.socket = buffered.raw._sock  # noqa: SLF001 - nor there
    connected.setblocking(False)
    early = bytes(buffered.peek())
    taken = connected.dup()
    response.close()
    return taken, early


def hang_up(response: requests.Response) -> None:
    """Close a response, even while a thread reads it."""
    connection: Any = response.raw.connection
    if connection and connection.sock:
        with suppress(OSError):  # the other side was faster
            connection.sock.shutdown(socket.SHUT_RDWR)
    response.close()
