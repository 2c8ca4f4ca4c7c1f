"""Builds an image with the local container engine, over its HTTP API."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

DEFAULT_HOST = "unix:///var/run/docker.sock"


class EngineError(Exception):
    """The build failed; the message says why."""


class EngineMissingError(EngineError):
    """No engine answers."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Opens the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class Engine:
    """The container engine of DOCKER_HOST, or the one at the default socket.

    As for every tool of the engine, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH secure tcp://.
    """

    def __init__(self, host: str | None = None) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST

    def build(
        self, context: IO[bytes], tag: str, dockerfile: str, args: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Builds a packed folder and gives the engine's messages. Raises EngineError."""
        query = urlencode(
            {
                "t": tag,
                "dockerfile": dockerfile,
                "buildargs": json.dumps(dict(args)),
                "rm": "1",
                "forcerm": "1",
            }
        )
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(_length(context))}
        try:
            with closing(self._connect()) as connection:
                connection.request("POST", f"/build?{query}", body=context, headers=headers)
                yield from _messages(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise EngineMissingError(
                f"no container engine answers at {self.host}: start one, or name another with "
                f"DOCKER_HOST ({error})"
            ) from error

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.host)
        if address.scheme == "unix":
            return _UnixConnection(address.path)
        if address.scheme not in ("tcp", "http", "https") or not address.hostname:
            raise EngineMissingError(f"DOCKER_HOST {self.host!r} is neither unix:// nor tcp://")
        if address.scheme == "https" or os.environ.get("DOCKER_TLS_VERIFY"):
            return http.client.HTTPSConnection(
                address.hostname, address.port or 2376, context=_tls()
            )
        return http.client.HTTPConnection(address.hostname, address.port or 2375)


def _length(file: IO[bytes]) -> int:
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


def _tls() -> ssl.SSLContext:
    folder = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    ca = folder / "ca.pem"
    context = ssl.create_default_context(cafile=ca if ca.exists() else None)
    if (folder / "cert.pem").exists():
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _messages(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The engine's messages, a line of JSON each. Raises EngineError for the one that fails."""
    if response.status != http.HTTPStatus.OK:
        raise EngineError(_reason(response.read()))
    for line in response:
        if line.strip():
            message = json.loads(line)
            if "error" in message:
                raise EngineError(str(message["error"]).strip())
            yield message


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip()
