"""The events of a Docker Engine: which containers ended, or were removed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import requests

from skybridge_server.runtimes.base import ContainerEnd
from skybridge_server.runtimes.docker_engine.client import Engine, EngineClient
from skybridge_server.runtimes.docker_engine.errors import of_engine, translating
from skybridge_server.runtimes.docker_engine.streams import hang_up, open_stream

_ACTIONS = ("die", "destroy")


async def container_ends(
    engine: EngineClient, labels: Mapping[str, str]
) -> AsyncGenerator[ContainerEnd]:
    """Ask for the ends of containers with these labels; a thread waits for them."""
    with translating(of_engine):
        response = await engine.long_call(
            lambda engine: _request(engine, labels), undo=lambda _, response: hang_up(response)
        )
    return _read(engine, response)


async def _read(engine: EngineClient, response: requests.Response) -> AsyncGenerator[ContainerEnd]:
    lines = response.iter_lines()
    try:
        while line := await engine.long_call(lambda _: _next(lines)):
            yield _to_end(json.loads(line))
    finally:
        hang_up(response)


def _request(engine: Engine, labels: Mapping[str, str]) -> requests.Response:
    filters = {
        "type": ["container"],
        "event": _ACTIONS,
        "label": [f"{key}={value}" for key, value in labels.items()],
    }
    params = {"filters": json.dumps(filters)}
    return open_stream(engine.long, "/events", params, {}, method="GET", patient=True)


def _next(lines: Iterator[bytes]) -> bytes | None:
    return next(filter(None, lines), None)


def _to_end(event: Mapping[str, Any]) -> ContainerEnd:
    actor = event["Actor"]
    attributes: Mapping[str, str] = actor["Attributes"]
    removed = event["Action"] == "destroy"
    return ContainerEnd(actor["ID"], attributes.get("name", ""), attributes, removed)
