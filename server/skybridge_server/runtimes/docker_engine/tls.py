"""TLS whose two directions end one by one: asyncio's own cannot, and so could not end stdin."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from docker import APIClient

READ_BYTES = 64 * 1024


class TlsStream:
    """A TLS connection for one reader and one writer."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._ended = False

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            else:
                return await self._flush()

    async def read(self) -> bytes:
        """Return what has come; b'' at the end."""
        while not (data := self._decrypt()) and not self._ended:
            await self._fill()
        return data

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def write_eof(self) -> None:
        """Say that nothing more comes, and go on reading."""
        # It asks for the other side's word too, which is still to come: `_decrypt` leaves nothing
        # behind that could be taken for it.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()

    def close(self) -> None:
        self._writer.transport.abort()

    def _decrypt(self) -> bytes:
        parts = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        return b"".join(parts)

    async def _fill(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        self._writer.write(self._outgoing.read())
        await self._writer.drain()


def client_context(client: APIClient) -> ssl.SSLContext:
    """Return what docker-py verifies the engine with, and shows it. Reads files."""
    authority = client.verify if isinstance(client.verify, str) else None
    context = ssl.create_default_context(cafile=authority)
    if not client.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client.cert:
        files = (client.cert,) if isinstance(client.cert, str) else client.cert
        context.load_cert_chain(*files)
    return context


async def connect(client: APIClient, context: ssl.SSLContext) -> TlsStream:
    """Connect to an engine as docker-py does; raises OSError."""
    url = urlsplit(client.base_url)
    host = url.hostname or ""
    reader, writer = await asyncio.open_connection(host, url.port or 2376)
    stream = TlsStream(reader, writer, context, host)
    try:
        await stream.handshake()
    except BaseException:
        stream.close()
        raise
    return stream
