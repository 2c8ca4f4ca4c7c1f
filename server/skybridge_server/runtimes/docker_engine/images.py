"""The images of a Docker Engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import requests
from docker import APIClient, auth
from docker.errors import APIError, ImageNotFound, InvalidRepository
from docker.utils import parse_repository_tag

from skybridge_server.runtimes.base import Credentials, Image, PullProgress
from skybridge_server.runtimes.docker_engine.client import EngineClient
from skybridge_server.runtimes.docker_engine.errors import (
    explanation,
    of_engine,
    of_pull,
    translating,
)
from skybridge_server.runtimes.docker_engine.streams import hang_up, open_stream


class DockerImages:
    """Finds and pulls images."""

    def __init__(self, engine: EngineClient, credentials: Mapping[str, Credentials]) -> None:
        """Take the operator's credentials by host of the registry; others are docker's own."""
        self._engine = engine
        self._credentials = credentials

    async def get(self, reference: str) -> Image | None:
        with translating(of_engine):
            return await self._engine.call(lambda engine: _inspect(engine.short, reference))

    async def pull(
        self, reference: str, credentials: Credentials | None
    ) -> AsyncIterator[PullProgress]:
        with translating(lambda error: of_pull(reference, explanation(error))):
            response = await self._engine.long_call(
                lambda engine: self._request_pull(engine.long, reference, credentials),
                undo=lambda _, response: hang_up(response),
            )
        # One step at a time, so that an engine never runs ahead of who reads.
        steps = _steps(response)
        try:
            while step := await self._engine.long_call(lambda _: next(steps, None)):
                if "error" in step:
                    raise of_pull(reference, str(step["error"]))
                if progress := _to_progress(step):
                    yield progress
        finally:
            hang_up(response)

    def _request_pull(
        self, client: APIClient, reference: str, credentials: Credentials | None
    ) -> requests.Response:
        repository, tag = parse_repository_tag(reference)
        try:
            registry, _ = auth.resolve_repository_name(repository)
        except InvalidRepository as error:
            raise of_pull(reference, f"invalid reference format: {error}") from error
        login = credentials or self._credentials.get(registry)
        encoded = _encode(login) if login else auth.get_config_header(client, registry)
        headers = {"X-Registry-Auth": str(encoded, "ascii")} if encoded else {}
        return open_stream(
            client,
            "/images/create",
            {"fromImage": repository, "tag": tag or "latest"},
            headers,
            patient=True,
        )

    async def remove(self, image_id: str, reference: str) -> bool:
        with translating(of_engine):
            return await self._engine.call(
                lambda engine: _remove(engine.short, image_id, reference)
            )


def _remove(client: APIClient, image_id: str, reference: str) -> bool:
    try:
        if _has_name(client, image_id, reference):
            client.remove_image(reference)
        elif not _tags(client, image_id):
            client.remove_image(image_id)
    except ImageNotFound:
        return True
    except APIError as error:
        if error.status_code == HTTPStatus.CONFLICT:
            return False
        raise
    return True


def _tags(client: APIClient, image_id: str) -> list[str]:
    found = client.inspect_image(image_id)  # type: ignore[no-untyped-call]
    return found["RepoTags"] or []


def _has_name(client: APIClient, image_id: str, reference: str) -> bool:
    named = _inspect(client, reference)
    return named is not None and named.id == image_id


def _encode(login: Credentials) -> bytes:
    return auth.encode_header({"username": login.username, "password": login.password})


def _steps(response: requests.Response) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in response.iter_lines() if line)


def _to_progress(step: Mapping[str, Any]) -> PullProgress | None:
    """Convert a step of a layer; those of the whole image say nothing that a caller needs."""
    status = step.get("status", "")
    if "id" not in step or status.startswith("Pulling from"):
        return None
    bytes_ = step.get("progressDetail") or {}
    return PullProgress(
        layer=step["id"],
        status=status,
        current_bytes=bytes_.get("current", 0),
        total_bytes=bytes_.get("total", 0),
    )


def _inspect(client: APIClient, reference: str) -> Image | None:
    try:
        found = client.inspect_image(reference)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None
    return _to_image(found)


def _to_image(found: Mapping[str, Any]) -> Image:
    config = found.get("Config") or {}
    platform = (found["Os"], found["Architecture"], found.get("Variant"))
    return Image(
        id=found["Id"],
        digest=next(iter(found.get("RepoDigests") or ()), ""),
        platform="/".join(filter(None, platform)),
        size_bytes=found["Size"],
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
    )
