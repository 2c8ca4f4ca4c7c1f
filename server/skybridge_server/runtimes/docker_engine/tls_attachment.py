"""Streams of an engine behind TLS: a pair of sockets stands between each and the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from ssl import SSLContext
from urllib.parse import urlencode, urlsplit

from docker import APIClient

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine.attachment import STREAMS, UPGRADE
from skybridge_server.runtimes.docker_engine.recording import CLOSE, log_path
from skybridge_server.runtimes.docker_engine.tls import READ_BYTES, TlsStream, connect

END_OF_HEAD = b"\r\n\r\n"


async def open_attachment(
    client: APIClient, container_id: str, context: SSLContext
) -> tuple[socket.socket, asyncio.Task[None]]:
    """Attach; return a socket to the container, and the task that carries its bytes."""
    path = f"/containers/{container_id}/attach?{urlencode(STREAMS)}"
    return await _open(client, context, "POST", path, {**UPGRADE, "Content-Length": "0"})


async def open_log(
    client: APIClient, container_id: str, context: SSLContext, *, follow: bool
) -> tuple[socket.socket, asyncio.Task[None]]:
    """Do the same for the log of a container."""
    return await _open(client, context, "GET", log_path(container_id, follow=follow), CLOSE)


async def _open(
    client: APIClient, context: SSLContext, method: str, path: str, headers: Mapping[str, str]
) -> tuple[socket.socket, asyncio.Task[None]]:
    try:
        stream = await connect(client, context)
    except OSError as error:
        raise RuntimeUnavailableError(f"the container engine does not answer: {error}") from error
    try:
        early = await _request(stream, client, f"{method} /v{client.api_version}{path}", headers)
    except BaseException:
        stream.close()
        raise
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, asyncio.create_task(_carry(stream, theirs, early))


async def _request(
    stream: TlsStream, client: APIClient, target: str, headers: Mapping[str, str]
) -> bytes:
    """Ask for a stream; return what came of it with the head of the answer."""
    all_headers = {"Host": urlsplit(client.base_url).netloc, **headers}
    lines = [f"{target} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
    await stream.write("\r\n".join(lines).encode() + END_OF_HEAD)
    answer = b""
    while END_OF_HEAD not in answer:
        data = await stream.read()
        if not data:
            raise RuntimeUnavailableError("the container engine hung up on a request")
        answer += data
    head, _, early = answer.partition(END_OF_HEAD)
    if head.split()[1] not in {b"101", b"200"}:
        raise RuntimeUnavailableError(
            f"the container engine refused a request: {answer.decode(errors='replace')}"
        )
    return early


async def _carry(stream: TlsStream, local: socket.socket, early: bytes) -> None:
    """Carry bytes until both sides have ended, or one broke."""
    reader, writer = await asyncio.open_connection(sock=local)
    try:
        writer.write(early)
        async with asyncio.TaskGroup() as group:
            group.create_task(_download(stream, writer))
            group.create_task(_upload(reader, stream))
    except* OSError:
        pass  # who reads the other socket sees its end
    finally:
        stream.close()
        writer.transport.abort()


async def _download(stream: TlsStream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _upload(reader: asyncio.StreamReader, stream: TlsStream) -> None:
    while data := await reader.read(READ_BYTES):
        await stream.write(data)
    await stream.write_eof()
