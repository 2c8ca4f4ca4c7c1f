"""Housekeeping: old requests are forgotten, again and again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import StorageError
from skybridge_server.models.requests import Request
from skybridge_server.services.housekeeping import INTERVAL, Housekeeping
from tests.fakes.repositories import FakeRequests
from tests.fakes.runtime import Gate
from tests.unit.services.world import put_behind


async def test_old_requests_are_forgotten() -> None:
    requests = FakeRequests()
    now = datetime.now(UTC)
    requests.record(Request("M", "old", "f", now - timedelta(hours=25)))
    requests.record(Request("M", "new", "f", now - timedelta(hours=23)))
    housekeeping = Housekeeping(requests, timedelta(hours=24))
    await housekeeping.open()
    await asyncio.sleep(0.1)
    assert [request_id for _, request_id in requests.rows] == ["new"]
    await housekeeping.close()


async def test_a_failure_is_not_the_end_of_it(logged: list[dict[str, object]]) -> None:
    requests, gate = FakeRequests(), Gate()
    put_behind(gate, requests, "prune")
    requests.record(Request("M", "old", "f", datetime.now(UTC) - timedelta(hours=25)))
    housekeeping = Housekeeping(requests, timedelta(hours=24))
    gate.failures["prune"] = StorageError("disk full")
    await housekeeping.open()
    await asyncio.sleep(1)
    gate.failures["prune"] = ValueError("a defect")
    await asyncio.sleep(INTERVAL.total_seconds())
    assert [e["event"] for e in logged] == ["request ids not pruned", "housekeeping broke"]
    gate.failures.clear()
    await asyncio.sleep(INTERVAL.total_seconds())
    assert not requests.rows
    await housekeeping.close()


async def test_closing_what_was_never_opened() -> None:
    await Housekeeping(FakeRequests(), timedelta(1)).close()
