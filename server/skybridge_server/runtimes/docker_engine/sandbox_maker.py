"""Makes sandboxes at an engine, and removes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.types import LogConfig

from skybridge_server.models.functions import Network
from skybridge_server.runtimes.docker_engine import calls
from skybridge_server.runtimes.docker_engine.client import Engine, EngineClient
from skybridge_server.runtimes.docker_engine.containers import DockerContainers
from skybridge_server.runtimes.docker_engine.errors import of_container, of_engine, translating
from skybridge_server.runtimes.docker_engine.hardening import MIB, network_mode
from skybridge_server.runtimes.docker_engine.networks import ensure_egress
from skybridge_server.runtimes.docker_engine.sandbox import Sandbox
from skybridge_server.runtimes.docker_engine.sandbox_image import ensure_image

HOSTNAME = "function"
"""What functions in sandboxes see as theirs: the same in all, so that it tells nothing."""
MEMORY_BYTES = 16 * MIB
"""The program needs 4 KiB; this is for the engine's own steps to start it."""
PIDS = 16


class SandboxMaker:
    """Makes sandboxes of one network, with the labels of a server: a later one may find them."""

    def __init__(
        self,
        engine: EngineClient,
        containers: DockerContainers,
        network: Network,
        labels: Mapping[str, str],
        *,
        lasting: bool = False,
    ) -> None:
        """`lasting`: they outlive us, so that another process can take them over."""
        self._engine = engine
        self._containers = containers
        self._network = network
        self._labels = labels
        self._lasting = lasting

    async def make(self, name: str) -> Sandbox:
        """Make a sandbox whose network is untouched. ContainerStartError and others."""
        with translating(of_engine):
            container_id = await self._engine.call(
                lambda engine: _create(
                    engine, name, self._network, self._labels, lasting=self._lasting
                ),
                undo=lambda engine, made: calls.remove(engine.short, made),
            )
        try:
            return await self._start(name, container_id)
        except BaseException:
            await self._containers.remove(container_id)
            raise

    async def _start(self, name: str, container_id: str) -> Sandbox:
        sandbox = Sandbox(name, container_id, await self._containers.attach(container_id))
        try:
            await self._containers.start(container_id)
            await sandbox.settle()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def take_over(self, container_id: str) -> Sandbox:
        """Attach to the sandbox of an earlier process. ContainerGoneError, ContainerStartError."""
        with translating(of_container(container_id)):
            name = await self._engine.call(lambda engine: calls.name(engine.short, container_id))
        sandbox = Sandbox(name, container_id, await self._containers.attach(container_id))
        try:
            sandbox.reset()
            await sandbox.settle()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def remove(self, sandbox: Sandbox) -> None:
        """Remove a sandbox; containers in its network keep it until they end."""
        await sandbox.close()
        with translating(of_engine):
            await self._engine.call(lambda engine: _remove(engine, sandbox.id))


def _create(
    engine: Engine, name: str, network: Network, labels: Mapping[str, str], *, lasting: bool
) -> str:
    if network is Network.EGRESS:
        ensure_egress(engine.short)
    host_config = engine.short.create_host_config(**_host_options(network))
    created: dict[str, Any] = engine.short.create_container(
        ensure_image(engine),
        name=name,
        hostname=HOSTNAME,
        labels=dict(labels),
        user="65532:65532",
        stdin_open=True,
        detach=lasting,  # else the engine ends its stdin, and thereby it, when we go away
        host_config=host_config,
    )
    return str(created["Id"])


def _remove(engine: Engine, container_id: str) -> None:
    engine.probe.ping()  # or an engine that hangs would hold up a stop of the server for a minute
    calls.remove(engine.short, container_id)


def _host_options(network: Network) -> dict[str, Any]:
    """Return what fences it in: as functions are, and with as little as engines allow."""
    return {
        "auto_remove": True,  # where it ends, nothing is left
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "mem_limit": MEMORY_BYTES,
        "memswap_limit": MEMORY_BYTES,
        "pids_limit": PIDS,
        "network_mode": network_mode(network),
        "log_config": LogConfig(type="none"),
    }
