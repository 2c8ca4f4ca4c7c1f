"""The images of a Docker Engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from docker import APIClient
from docker.errors import ImageNotFound

from skybridge_server.runtimes.base import Credentials, Image, PullProgress
from skybridge_server.runtimes.docker_engine.client import EngineClient
from skybridge_server.runtimes.docker_engine.errors import of_engine, translating


class DockerImages:
    """Finds and pulls images."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def get(self, reference: str) -> Image | None:
        with translating(of_engine):
            return await self._engine.call(lambda engine: _inspect(engine.short, reference))

    def pull(self, reference: str, credentials: Credentials | None) -> AsyncIterator[PullProgress]:
        raise NotImplementedError


def _inspect(client: APIClient, reference: str) -> Image | None:
    try:
        found = client.inspect_image(reference)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return _to_image(found)


def _to_image(found: dict[str, Any]) -> Image:
    config = found.get("Config") or {}
    variant = found.get("Variant")
    platform = "/".join(filter(None, (found["Os"], found["Architecture"], variant)))
    return Image(
        id=found["Id"],
        digest=next(iter(found.get("RepoDigests") or ()), ""),
        platform=platform,
        size_bytes=found["Size"],
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )
