"""Containers whose network is lent by a sandbox, which halves the time that their start takes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    FailedPreconditionError,
    StaleContainerError,
)
from skybridge_server.models.functions import Network
from skybridge_server.runtimes.base import Attachment, ContainerRecord, ContainerSpec, Exit
from skybridge_server.runtimes.docker_engine.containers import DockerContainers
from skybridge_server.runtimes.docker_engine.sandbox import Condition, Sandbox
from skybridge_server.runtimes.docker_engine.sandboxes import Sandboxes


class SandboxedContainers:
    """Creates containers in sandboxes where that can be done, else as they are."""

    def __init__(self, plain: DockerContainers, sandboxes: Sandboxes) -> None:
        self._plain = plain
        self._sandboxes = sandboxes
        self._joined: dict[str, Sandbox] = {}

    async def create(self, spec: ContainerSpec) -> str:
        sandbox = self._sandboxes.lend(_program(spec)) if _may_share(spec) else None
        if sandbox is None:
            return await self._plain.create(spec)
        try:
            container_id = await self._plain.create(spec, join=sandbox.id)
        except FailedPreconditionError:
            self._sandboxes.give_back(sandbox)  # which looks whether the sandbox is to blame
            return await self._plain.create(spec)
        except BaseException:
            self._sandboxes.discard(sandbox)  # the engine may still make the container
            raise
        self._joined[container_id] = sandbox
        return container_id

    async def attach(self, container_id: str) -> Attachment:
        return await self._plain.attach(container_id)

    async def start(self, container_id: str) -> None:
        try:
            await self._plain.start(container_id)
        except (ContainerStartError, ContainerGoneError) as error:
            sandbox = self._joined.get(container_id)
            if sandbox and await self._is_to_blame(sandbox, error):
                raise StaleContainerError(
                    f"the container cannot join its network sandbox: {error.message}"
                ) from error
            raise

    async def _is_to_blame(self, sandbox: Sandbox, error: Exception) -> bool:
        """Tell whether a container that did not start may do so in another sandbox, or in none."""
        if await sandbox.look() is Condition.LOST:
            return True
        if isinstance(error, ContainerGoneError):
            return False
        self._sandboxes.avoid(sandbox)  # so that the next try shows what it does in none
        return True

    async def wait(self, container_id: str) -> Exit:
        return await self._plain.wait(container_id)

    async def signal(self, container_id: str, signal: str) -> None:
        await self._plain.signal(container_id, signal)

    async def remove(self, container_id: str) -> None:
        sandbox = self._joined.pop(container_id, None)
        try:
            await self._plain.remove(container_id)
        except BaseException:
            if sandbox:
                self._sandboxes.discard(sandbox)  # its processes may live on
            raise
        if sandbox:
            self._sandboxes.give_back(sandbox)

    async def list(self, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
        found = await self._plain.list(labels)
        return tuple(record for record in found if record.name not in self._sandboxes)


def _may_share(spec: ContainerSpec) -> bool:
    """Tell whether a container leaves nothing in a sandbox but what its network shows.

    With a writable root, root may write to /etc/hosts, which the engine keeps for the sandbox.
    Other OCI runtimes may bring networks of their own.
    """
    isolation = spec.isolation
    return (
        spec.network is Network.NONE and not isolation.writable_root and not isolation.oci_runtime
    )


def _program(spec: ContainerSpec) -> Hashable:
    return spec.image_id, spec.command, spec.args
