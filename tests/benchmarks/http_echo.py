"""The function of the warm benchmarks: gives back the body of each request, with little work."""

from __future__ import annotations

import asyncio
import os


class Echo(asyncio.Protocol):
    """Speaks just as much HTTP/1.1 as a client that announces its lengths needs."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (head := self._seen.find(b"\r\n\r\n")) >= 0:
            start = self._seen.lower().index(b"content-length:") + 15
            length = int(self._seen[start : self._seen.index(b"\r\n", start)])
            end = head + 4 + length
            if len(self._seen) < end:
                return
            body, self._seen = self._seen[head + 4 : end], self._seen[end:]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "0.0.0.0", int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
