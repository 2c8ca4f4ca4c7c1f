"""What the engine says of containers, where it says it in a way of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skybridge_server.runtimes.docker_engine import calls
from skybridge_server.runtimes.docker_engine.client import EngineClient
from tests.unit.runtimes.tiny_engine import TinyEngine


class Listing(TinyEngine):
    """Has these containers."""

    containers: list[dict[str, Any]]

    def answer(self, path: str) -> bytes:
        if "/containers/json" in path:
            return json.dumps(self.containers).encode()
        return super().answer(path)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Listing]:
    made = Listing(tmp_path / "engine.sock")
    made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize("nothing", [[], None])
async def test_a_removed_container_that_is_listed_still(
    engine: Listing, nothing: list[str] | None
) -> None:
    labels = {"skybridge.server": "one"}
    engine.containers = [
        {"Id": "ghost", "Names": nothing, "Labels": labels, "State": "exited"},
        {"Id": "there", "Names": ["/echo"], "Labels": labels, "State": "running"},
    ]
    client = EngineClient({"DOCKER_HOST": f"unix://{engine.path}"}, max_waits=1)
    try:
        found = await client.call(lambda connected: calls.find(connected.short, labels))
    finally:
        client.close()
    assert [(each.id, each.name, each.running) for each in found] == [("there", "echo", True)]
