"""The containers of a Docker Engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing

import requests

from skybridge_server.runtimes.base import (
    Attachment,
    ContainerRecord,
    ContainerSpec,
    ContainerState,
    Exit,
    Recording,
)
from skybridge_server.runtimes.docker_engine import calls
from skybridge_server.runtimes.docker_engine.attachment import drive, request_attachment
from skybridge_server.runtimes.docker_engine.client import EngineClient
from skybridge_server.runtimes.docker_engine.errors import (
    of_container,
    of_creation,
    of_engine,
    of_pause,
    of_start,
    translating,
)
from skybridge_server.runtimes.docker_engine.recording import record, request_log
from skybridge_server.runtimes.docker_engine.tls_attachment import open_attachment, open_log


class DockerContainers:
    """Creates, drives and removes containers."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def create(self, spec: ContainerSpec, join: str = "") -> str:
        with translating(of_creation(spec.image_id)):
            return await self._engine.call(
                lambda engine: calls.create(engine, spec, join),
                undo=lambda engine, container_id: calls.remove(engine.short, container_id),
            )

    async def attach(self, container_id: str) -> Attachment:
        engine = await self._engine.connected()
        attach = self._attach_encrypted if engine.encrypted else self._attach_plain
        with translating(of_container(container_id)):
            return await attach(container_id)

    async def _attach_plain(self, container_id: str) -> Attachment:
        sock, early = await self._engine.call(
            lambda engine: request_attachment(engine.short, container_id),
            undo=lambda _, taken: taken[0].close(),
        )
        return await drive(sock, early=early)

    async def _attach_encrypted(self, container_id: str) -> Attachment:
        client, context = await self._engine.call(
            lambda engine: calls.prepare_encryption(engine.short, container_id)
        )
        sock, carrier = await open_attachment(client, container_id, context)
        return await drive(sock, carrier=carrier)

    async def rename(self, container_id: str, name: str) -> None:
        with translating(of_container(container_id)):
            await self._engine.call(lambda engine: engine.short.rename(container_id, name))

    async def start(self, container_id: str) -> None:
        with translating(of_start(container_id)):
            await self._engine.call(lambda engine: engine.short.start(container_id))

    async def inspect(self, container: str) -> ContainerState:
        with translating(of_container(container)):
            return await self._engine.call(lambda engine: calls.inspect(engine, container))

    async def logs(self, container_id: str, *, follow: bool) -> Recording:
        engine = await self._engine.connected()
        with translating(of_container(container_id)):
            room = await self._engine.call(lambda e: calls.log_room(e.short, container_id))
            if engine.encrypted:
                return await self._encrypted_log(container_id, room, follow=follow)
            sock, early = await self._engine.call(
                lambda e: request_log(e.short, container_id, follow=follow),
                undo=lambda _, taken: taken[0].close(),
            )
            return await record(sock, room, early=early)

    async def _encrypted_log(self, container_id: str, room: int, *, follow: bool) -> Recording:
        client, context = await self._engine.call(
            lambda engine: calls.prepare_encryption(engine.short, container_id)
        )
        sock, carrier = await open_log(client, container_id, context, follow=follow)
        return await record(sock, room, carrier=carrier)

    async def wait(self, container_id: str) -> Exit:
        with translating(of_container(container_id)):
            waiting = await self._engine.long_call(
                lambda engine: calls.request_wait(engine.long, container_id),
                undo=lambda _, response: response.close(),
            )
            with closing(waiting):
                await _until_readable(waiting)
                return await self._engine.call(
                    lambda engine: calls.read_exit(engine.short, container_id, waiting)
                )

    async def signal(self, container_id: str, signal: str) -> None:
        with translating(of_container(container_id)):
            await self._engine.call(lambda engine: calls.signal(engine.short, container_id, signal))

    async def pause(self, container_id: str) -> None:
        with translating(of_pause(container_id)):
            await self._engine.call(lambda engine: calls.pause(engine.short, container_id))

    async def unpause(self, container_id: str) -> None:
        with translating(of_container(container_id)):
            await self._engine.call(lambda engine: calls.unpause(engine.short, container_id))

    async def joined(self, container_id: str) -> str:
        """Return the id of the container whose network it has joined. ContainerGoneError."""
        with translating(of_container(container_id)):
            return await self._engine.call(lambda engine: calls.joined(engine.short, container_id))

    async def process(self, container_id: str) -> int:
        """Return the number of its first process, as the engine counts; 0: it does not run."""
        with translating(of_container(container_id)):
            return await self._engine.call(lambda engine: calls.process(engine.short, container_id))

    async def processes(self, container_id: str) -> int | None:
        with translating(of_container(container_id)):
            return await self._engine.call(
                lambda engine: calls.processes(engine.short, container_id)
            )

    async def remove(self, container_id: str) -> None:
        with translating(of_engine):
            await self._engine.call(lambda engine: calls.remove(engine.short, container_id))

    async def list(self, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
        with translating(of_engine):
            return await self._engine.call(lambda engine: calls.find(engine.short, labels))


async def _until_readable(response: requests.Response) -> None:
    """Let the event loop watch the connection, so that no thread has to wait with it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    descriptor = response.raw.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
