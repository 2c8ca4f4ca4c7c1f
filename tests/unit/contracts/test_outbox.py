"""What is sent to an instance in one round of the event loop."""

from __future__ import annotations

import asyncio
from functools import partial

from skybridge_server.contracts.outbox import Outbox


async def test_the_first_is_sent_at_once_and_the_others_together() -> None:
    sent: list[int] = []
    outbox = Outbox()
    for number in range(3):
        outbox.send(partial(sent.append, number))
    assert sent == [0]
    await asyncio.sleep(0)
    assert sent == [0, 1, 2]


async def test_each_round_begins_anew() -> None:
    sent: list[int] = []
    outbox = Outbox()
    for number in range(3):
        outbox.send(partial(sent.append, number))
        assert sent[-1] == number
        await asyncio.sleep(0)
    assert len(sent) == 3


async def test_what_is_sent_by_one_that_waited_is_of_the_next_round() -> None:
    sent: list[int] = []
    outbox = Outbox()
    outbox.send(partial(sent.append, 0))

    def send_more() -> None:
        for number in (1, 2):
            outbox.send(partial(sent.append, number))

    outbox.send(send_more)
    await asyncio.sleep(0)
    assert sent == [0, 1]
    await asyncio.sleep(0)
    assert sent == [0, 1, 2]
