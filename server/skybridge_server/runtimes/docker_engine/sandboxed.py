"""Containers whose network a sandbox keeps.

One that is lent halves the time that a start takes. Containers whose ports are to be reached have
one of their own: it is there before they start, and it is how their ports are reached. Together
they outlive this process, if it does not remove them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    FailedPreconditionError,
    StaleContainerError,
)
from skybridge_server.models.functions import Network
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerRecord,
    ContainerSpec,
    ContainerState,
    Exit,
    Recording,
)
from skybridge_server.runtimes.docker_engine.containers import DockerContainers
from skybridge_server.runtimes.docker_engine.port_opener import PortOpener
from skybridge_server.runtimes.docker_engine.ports import Ports
from skybridge_server.runtimes.docker_engine.sandbox import Condition, Sandbox
from skybridge_server.runtimes.docker_engine.sandboxes import Sandboxes


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """The sandbox of one container, and the ports in it."""

    sandbox: Sandbox
    ports: Ports
    sandboxes: Sandboxes

    async def remove(self) -> None:
        """Remove it, to the end even if nobody waits any more."""
        self.ports.close()
        if removing := self.sandboxes.discard(self.sandbox):
            await asyncio.shield(removing)

    async def leave(self) -> None:
        """Let go of it, so that it stays."""
        self.ports.close()
        await self.sandboxes.leave(self.sandbox)


class SandboxedContainers:
    """Creates containers in sandboxes where they need one, or it can be done; else as they are."""

    def __init__(
        self,
        plain: DockerContainers,
        kept: Sandboxes,
        sandboxes: Mapping[Network, Sandboxes],
        port_opener: PortOpener,
        max_ahead: int,
    ) -> None:
        """`kept` are lent; `sandboxes`, lasting ones by their network, are taken.

        `max_ahead`: how many are lent to containers that wait to be started, at most.
        """
        self._plain = plain
        self._kept = kept
        self._sandboxes = sandboxes
        self._port_opener = port_opener
        self._max_ahead = max_ahead
        self._joined: dict[str, Sandbox] = {}
        self._ahead: set[str] = set()
        """Those among them that were created ahead, and nobody has started yet."""
        self._own: dict[str, OwnNetwork] = {}

    async def create(self, spec: ContainerSpec) -> str:
        if spec.reachable:
            return await self._create_reachable(spec)
        sandbox = await self._lend(spec) if _may_share(spec) else None
        if sandbox is None:
            return await self._plain.create(spec)
        try:
            container_id = await self._plain.create(spec, join=sandbox.id)
        except FailedPreconditionError:
            self._kept.give_back(sandbox)  # which looks whether the sandbox is to blame
            return await self._plain.create(spec)
        except BaseException:
            self._kept.discard(sandbox)  # the engine may still make the container
            raise
        self._joined[container_id] = sandbox
        if spec.ahead:
            self._ahead.add(container_id)
        return container_id

    async def _lend(self, spec: ContainerSpec) -> Sandbox | None:
        if not spec.ahead:
            return self._kept.lend(_program(spec))
        if len(self._ahead) >= self._max_ahead:
            return None  # the others are for those who need one now
        return await self._kept.lend_soon(_program(spec))

    async def _create_reachable(self, spec: ContainerSpec) -> str:
        sandboxes = self._sandboxes[spec.network]
        own = await self._open(await sandboxes.take(), sandboxes)
        try:
            container_id = await self._plain.create(spec, join=own.sandbox.id)
        except BaseException:
            await own.remove()
            raise
        self._own[container_id] = own
        return container_id

    async def adopt(self, container_id: str, network: Network) -> None:
        """Take over a reachable container of an earlier process, and its sandbox."""
        joined = await self._plain.joined(container_id)
        sandboxes = self._sandboxes[network]
        self._own[container_id] = await self._open(await sandboxes.adopt(joined), sandboxes)

    async def leave(self, container_id: str) -> None:
        """Let go of a reachable container, and of its sandbox, for a later process."""
        await self._own.pop(container_id).leave()

    async def _open(self, sandbox: Sandbox, sandboxes: Sandboxes) -> OwnNetwork:
        try:
            return OwnNetwork(sandbox, await self._port_opener.open(sandbox), sandboxes)
        except BaseException:
            sandboxes.discard(sandbox)
            raise

    async def way_to_ports(self) -> str:
        """Find out how ports are reached, with a sandbox that nobody needs. SkybridgeError."""
        sandboxes = self._sandboxes[Network.NONE]
        await (await self._open(await sandboxes.take(), sandboxes)).remove()
        return self._port_opener.way

    def ports(self, container_id: str) -> Ports:
        """Return the ports of a reachable container that was not removed. ContainerGoneError."""
        if container_id not in self._own:
            raise ContainerGoneError(container_id)
        return self._own[container_id].ports

    async def attach(self, container_id: str) -> Attachment:
        return await self._plain.attach(container_id)

    async def rename(self, container_id: str, name: str) -> None:
        await self._plain.rename(container_id, name)

    async def start(self, container_id: str) -> None:
        self._ahead.discard(container_id)
        try:
            await self._plain.start(container_id)
        except (ContainerStartError, ContainerGoneError) as error:
            if await self._may_start_elsewhere(container_id, error):
                raise StaleContainerError(
                    f"the container cannot join its network sandbox: {error.message}"
                ) from error
            raise

    async def _may_start_elsewhere(self, container_id: str, error: Exception) -> bool:
        """Tell whether a container that did not start may do so in another sandbox, or in none."""
        if own := self._own.get(container_id):
            return await own.sandbox.look() is Condition.LOST
        sandbox = self._joined.get(container_id)
        if sandbox is None:
            return False
        if await sandbox.look() is Condition.LOST:
            return True
        if isinstance(error, ContainerGoneError):
            return False
        self._kept.avoid(sandbox)  # so that the next try shows what it does in none
        return True

    async def inspect(self, container: str) -> ContainerState:
        return await self._plain.inspect(container)

    async def logs(self, container_id: str, *, follow: bool) -> Recording:
        return await self._plain.logs(container_id, follow=follow)

    async def wait(self, container_id: str) -> Exit:
        return await self._plain.wait(container_id)

    async def signal(self, container_id: str, signal: str) -> None:
        await self._plain.signal(container_id, signal)

    async def remove(self, container_id: str) -> None:
        own = self._own.pop(container_id, None)
        try:
            await self._remove(container_id)
        finally:
            if own:
                await own.remove()

    async def _remove(self, container_id: str) -> None:
        self._ahead.discard(container_id)
        sandbox = self._joined.pop(container_id, None)
        try:
            await self._plain.remove(container_id)
        except BaseException:
            if sandbox:
                self._kept.discard(sandbox)  # its processes may live on
            raise
        if sandbox:
            self._kept.give_back(sandbox)

    async def list(self, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
        found = await self._plain.list(labels)
        return tuple(record for record in found if not self._is_sandbox(record.name))

    def _is_sandbox(self, name: str) -> bool:
        return any(name in sandboxes for sandboxes in (self._kept, *self._sandboxes.values()))


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
