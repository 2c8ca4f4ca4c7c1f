"""Attaching to an engine behind TLS: a pair of sockets stands between its stream and the loop."""

from __future__ import annotations

import asyncio
import socket
from ssl import SSLContext
from urllib.parse import urlencode, urlsplit

from docker import APIClient

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine.attachment import STREAMS, UPGRADE
from skybridge_server.runtimes.docker_engine.tls import READ_BYTES, TlsStream, connect

END_OF_HEAD = b"\r\n\r\n"


async def open_attachment(
    client: APIClient, container_id: str, context: SSLContext
) -> tuple[socket.socket, asyncio.Task[None]]:
    """Attach; return a socket to the container, and the task that carries its bytes."""
    try:
        stream = await connect(client, context)
    except OSError as error:
        raise RuntimeUnavailableError(f"the container engine does not answer: {error}") from error
    try:
        early = await _upgrade(stream, client, container_id)
    except BaseException:
        stream.close()
        raise
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, asyncio.create_task(_carry(stream, theirs, early))


async def _upgrade(stream: TlsStream, client: APIClient, container_id: str) -> bytes:
    """Turn an HTTP request into a stream of frames; return what came of them with the head."""
    target = f"/v{client.api_version}/containers/{container_id}/attach?{urlencode(STREAMS)}"
    headers = {"Host": urlsplit(client.base_url).netloc, **UPGRADE, "Content-Length": "0"}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    await stream.write("\r\n".join(lines).encode() + END_OF_HEAD)
    answer = b""
    while END_OF_HEAD not in answer:
        data = await stream.read()
        if not data:
            raise RuntimeUnavailableError("the container engine hung up on an attachment")
        answer += data
    head, _, early = answer.partition(END_OF_HEAD)
    if head.split()[1] not in {b"101", b"200"}:
        raise RuntimeUnavailableError(
            f"the container engine refused an attachment: {answer.decode(errors='replace')}"
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
