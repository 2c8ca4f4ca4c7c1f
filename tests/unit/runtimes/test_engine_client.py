from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine.client import EngineClient
from tests.support.waiting import PATIENCE
from tests.unit.runtimes.tiny_engine import TinyEngine


@pytest.fixture
async def tiny(tmp_path: Path) -> AsyncIterator[TinyEngine]:
    made = TinyEngine(tmp_path / "engine.sock")
    made.start()
    async with asyncio.timeout(PATIENCE):
        yield made
    await made.stop()


@pytest.fixture
async def client(tiny: TinyEngine) -> AsyncIterator[EngineClient]:
    made = EngineClient({"DOCKER_HOST": f"unix://{tiny.path}"}, max_waits=2)
    yield made
    made.close()


async def test_work_that_is_cancelled_is_undone(client: EngineClient) -> None:
    begun, go_on, undone = threading.Event(), threading.Event(), threading.Event()
    results: list[str] = []

    def work(_: object) -> str:
        begun.set()
        go_on.wait(PATIENCE)
        return "made"

    def undo(_: object, result: str) -> None:
        results.append(result)
        undone.set()

    calling = asyncio.create_task(client.call(work, undo))
    await asyncio.to_thread(begun.wait, PATIENCE)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go_on.set()
    assert await asyncio.to_thread(undone.wait, PATIENCE)
    assert results == ["made"]


async def test_work_that_failed_needs_no_undoing(client: EngineClient) -> None:
    begun, go_on, failed = threading.Event(), threading.Event(), threading.Event()

    def work(_: object) -> str:
        begun.set()
        go_on.wait(PATIENCE)
        failed.set()
        raise ValueError("nothing made")

    undone: list[str] = []
    calling = asyncio.create_task(client.call(work, lambda _, result: undone.append(result)))
    await asyncio.to_thread(begun.wait, PATIENCE)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    go_on.set()
    assert await asyncio.to_thread(failed.wait, PATIENCE)
    await client.call(lambda _: None)
    assert undone == []


async def test_the_version_is_negotiated_once(tiny: TinyEngine, client: EngineClient) -> None:
    engines = await asyncio.gather(*(client.call(lambda engine: engine) for _ in range(20)))
    assert len(set(map(id, engines))) == 1
    assert engines[0].short.api_version == "1.41"
    assert tiny.asked == ["/version", "/v1.41/info"]


async def test_it_is_negotiated_anew_after_the_engine_was_away(
    tiny: TinyEngine, client: EngineClient
) -> None:
    await client.connected()
    await tiny.stop()
    for _ in range(2):
        with pytest.raises(RuntimeUnavailableError, match="does not answer"):
            await client.call(lambda engine: engine.short.ping())
    assert client.current is None
    tiny.version = "1.44"
    tiny.start()
    assert (await client.connected()).short.api_version == "1.44"


async def test_what_is_no_engine(tiny: TinyEngine, client: EngineClient) -> None:
    tiny.version = None
    with pytest.raises(RuntimeUnavailableError, match="no Docker Engine"):
        await client.connected()


@pytest.mark.parametrize("host", ["nonsense", "ftp://there", "unix:///nonexistent"])
async def test_addresses_that_lead_nowhere(host: str) -> None:
    client = EngineClient({"DOCKER_HOST": host}, max_waits=1)
    with pytest.raises(RuntimeUnavailableError):
        await client.connected()
    client.close()
