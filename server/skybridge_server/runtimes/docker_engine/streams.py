"""Requests of which only the connection matters afterwards."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import requests
from docker import APIClient
from docker.errors import create_api_error_from_http_exception


def open_stream(
    client: APIClient, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
) -> requests.Response:
    """Post, and return once the headers are there; raises docker-py's APIError."""
    response = client.post(
        f"{client.base_url}/v{client.api_version}{path}",
        params=dict(params),
        headers=dict(headers),
        stream=True,
        timeout=client.timeout,
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
    connection: socket.socket = raw.connection.sock
    connection.settimeout(0)
    early = bytes(raw._fp.fp.peek())  # noqa: SLF001 - nothing public leads there
    taken = connection.dup()
    taken.setblocking(False)
    response.close()
    return taken, early
