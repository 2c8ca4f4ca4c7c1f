"""The Docker Engine as a runtime."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType

from skybridge_server.errors import RuntimeUnavailableError, SkybridgeError
from skybridge_server.models.executions import Usage
from skybridge_server.models.functions import Network
from skybridge_server.models.ports import PortAccess
from skybridge_server.runtimes.base import (
    ContainerEnd,
    Credentials,
    EngineInfo,
    Listener,
    WriteBoundary,
)
from skybridge_server.runtimes.docker_engine import files
from skybridge_server.runtimes.docker_engine.boundaries import PipeBoundaries
from skybridge_server.runtimes.docker_engine.cgroups import read_processes, read_usage
from skybridge_server.runtimes.docker_engine.client import (
    NEGOTIATION_SECONDS,
    PROBE_SECONDS,
    Engine,
    EngineClient,
)
from skybridge_server.runtimes.docker_engine.containers import DockerContainers
from skybridge_server.runtimes.docker_engine.errors import of_engine, translating
from skybridge_server.runtimes.docker_engine.events import container_ends
from skybridge_server.runtimes.docker_engine.images import DockerImages
from skybridge_server.runtimes.docker_engine.info import to_engine_info
from skybridge_server.runtimes.docker_engine.port_opener import PortOpener
from skybridge_server.runtimes.docker_engine.sandbox_maker import SandboxMaker
from skybridge_server.runtimes.docker_engine.sandboxed import SandboxedContainers
from skybridge_server.runtimes.docker_engine.sandboxes import Sandboxes

_NO_CREDENTIALS: Mapping[str, Credentials] = MappingProxyType({})
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class DockerRuntime:
    """Runs containers in the engine that DOCKER_HOST and kin lead to."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        credentials: Mapping[str, Credentials] = _NO_CREDENTIALS,
        max_waits: int = 256,
        max_sandboxes: int = 0,
        sandbox_labels: Mapping[str, str] = _NO_LABELS,
        port_access: PortAccess = PortAccess.AUTO,
    ) -> None:
        """Connect nothing yet; the engine may come later.

        `environment` stands in for that of the process, `credentials` are the operator's, by
        host of the registry, and `max_waits` bounds how many waits and pulls may begin at once.
        Up to `max_sandboxes` networks of each kind are kept for containers, each by a container
        of our own with `sandbox_labels`; half of them may wait with containers that are created
        ahead. `port_access` is the way to the ports of containers.
        """
        self._engine = EngineClient(environment, max_waits)
        self._images = DockerImages(self._engine, credentials)
        self._plain = DockerContainers(self._engine)
        self._sandboxes = [
            Sandboxes(
                SandboxMaker(self._engine, self._plain, network, sandbox_labels, lasting=lasting),
                max_sandboxes,
            )
            for network, lasting in (
                (Network.NONE, False),
                (Network.NONE, True),
                (Network.EGRESS, True),
            )
        ]
        kept, own, own_egress = self._sandboxes
        self._containers = SandboxedContainers(
            self._plain,
            kept,
            {Network.NONE: own, Network.EGRESS: own_egress},
            PortOpener(self._engine, port_access),
            max_ahead=(max_sandboxes + 1) // 2,
        )

    @property
    def name(self) -> str:
        return "docker"

    @property
    def images(self) -> DockerImages:
        return self._images

    @property
    def containers(self) -> SandboxedContainers:
        return self._containers

    async def forget_files(self, labels: Mapping[str, str]) -> None:
        with translating(of_engine):
            await self._engine.call(lambda engine: files.forget(engine.short, labels))

    async def check(self) -> EngineInfo:
        # To connect is to ask it for all of itself, and that takes a busy engine long.
        limit = PROBE_SECONDS if self._engine.current else NEGOTIATION_SECONDS
        try:
            async with asyncio.timeout(limit):
                with translating(of_engine):
                    return await self._engine.long_call(_look)
        except TimeoutError as error:
            raise RuntimeUnavailableError(
                f"the container engine does not answer within {limit} s"
            ) from error

    async def usage(self, container_id: str) -> Usage:
        engine = self._engine.current
        if engine is None or not engine.local:
            return Usage()
        return read_usage(engine.info, container_id)

    async def container_ends(self, labels: Mapping[str, str]) -> AsyncGenerator[ContainerEnd]:
        return await container_ends(self._engine, labels)

    async def processes(self, container_id: str) -> int | None:
        engine = self._engine.current
        if engine is None:
            return None
        if engine.local and (count := read_processes(engine.info, container_id)) is not None:
            return count
        try:
            return await self._plain.processes(container_id)
        except SkybridgeError:
            return None

    async def boundary_writer(self, container_id: str) -> WriteBoundary | None:
        engine = self._engine.current
        if engine is None or not engine.local:
            return None
        try:
            number = await self._plain.process(container_id)
            return PipeBoundaries(number, container_id)
        except (OSError, SkybridgeError):
            return None

    async def connect(self, container_id: str, port: int) -> socket.socket:
        return await self._containers.ports(container_id).connect(port)

    async def listen(
        self, container_id: str, port: int, accepted: Callable[[socket.socket], object]
    ) -> Listener:
        return await self._containers.ports(container_id).listen(port, accepted)

    async def way_to_ports(self) -> str:
        return await self._containers.way_to_ports()

    async def adopt(self, container_id: str, network: Network) -> None:
        await self._containers.adopt(container_id, network)

    async def leave(self, container_id: str) -> None:
        await self._containers.leave(container_id)

    async def pause(self, container_id: str) -> None:
        await self._plain.pause(container_id)

    async def unpause(self, container_id: str) -> None:
        await self._plain.unpause(container_id)

    async def close(self) -> None:
        await asyncio.gather(*(kept.close() for kept in self._sandboxes))
        self._engine.close()


def _look(engine: Engine) -> EngineInfo:
    """Ask for a sign of life only: a busy engine takes long to say all of itself.

    What it said when it was first seen holds until it goes away.
    """
    engine.probe.ping()
    return to_engine_info(engine.version, engine.info)
