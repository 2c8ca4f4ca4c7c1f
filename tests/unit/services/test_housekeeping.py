"""Housekeeping: every chore in turn, again and again, whatever becomes of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from skybridge_server.errors import StorageError
from skybridge_server.services.housekeeping import INTERVAL, Housekeeping


async def test_a_chore_that_fails_stops_no_other(logged: list[MutableMapping[str, Any]]) -> None:
    done: list[str] = []

    def chore(name: str, error: Exception | None) -> Callable[[], Awaitable[None]]:
        async def do() -> None:
            done.append(name)
            if error:
                raise error

        return do

    chores = {
        "full": chore("full", StorageError("the disk is full")),
        "broken": chore("broken", ValueError("a defect")),
        "well": chore("well", None),
    }
    housekeeping = Housekeeping(chores)
    await housekeeping.open()
    await asyncio.sleep(1.5 * INTERVAL.total_seconds())
    await housekeeping.close()
    assert done == [*chores, *chores]
    assert [(entry["log_level"], entry["chore"]) for entry in logged[:2]] == [
        ("warning", "full"),
        ("error", "broken"),
    ]


async def test_closing_waits_for_no_chore() -> None:
    housekeeping = Housekeeping({"long": asyncio.Event().wait})
    await housekeeping.close()
    await housekeeping.open()
    await asyncio.sleep(1)
    await housekeeping.close()
