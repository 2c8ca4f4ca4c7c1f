"""Just enough of an engine to negotiate with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path


class TinyEngine:
    """Answers `version` and `info` on a unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version: str | None = "1.41"
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)

    async def stop(self) -> None:
        """End as dockerd does: the socket vanishes. Twice is once."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()
            # Else a loop that ends leaves their sockets to be collected as garbage.
            await asyncio.gather(*self._answering)
            self.path.unlink(missing_ok=True)
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:  # somebody only looked whether there is an engine
            writer.close()
            await writer.wait_closed()
            return
        self.asked.append(head.split()[1].decode())
        body = json.dumps({"ApiVersion": self.version} if self.version else {}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
