"""What is sent to an instance in one round of the event loop."""

from __future__ import annotations

import asyncio

from skybridge_server.contracts.outbox import Outbox


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self._written = written
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


async def test_the_first_is_sent_at_once_and_the_others_together() -> None:
    written: list[bytes] = []
    outbox, transports = Outbox(), [Transport(written) for _ in range(3)]
    for number, transport in enumerate(transports):
        outbox.send(transport, b"%d" % number)
    assert written == [b"0"]
    await asyncio.sleep(0)
    assert written == [b"0", b"1", b"2"]


async def test_each_round_begins_anew() -> None:
    written: list[bytes] = []
    outbox, transport = Outbox(), Transport(written)
    for number in range(3):
        outbox.send(transport, b"%d" % number)
        assert written[-1] == b"%d" % number
        await asyncio.sleep(0)
    assert len(written) == 3


async def test_nothing_is_sent_where_nobody_waits_any_more() -> None:
    written: list[bytes] = []
    outbox, transports = Outbox(), [Transport(written) for _ in range(3)]
    for transport in transports:
        outbox.send(transport, b"x")
    transports[1].closing = True
    await asyncio.sleep(0)
    assert len(written) == 2
