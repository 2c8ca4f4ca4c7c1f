"""Finds the way to the ports of a sandbox, and thereby of the container that joins its network."""

from __future__ import annotations

import os
from typing import Any

from docker import APIClient

from skybridge_server.errors import ContainerStartError
from skybridge_server.runtimes.docker_engine.client import Engine, EngineClient
from skybridge_server.runtimes.docker_engine.errors import of_container, translating
from skybridge_server.runtimes.docker_engine.namespace import NamespacePorts, socket_in
from skybridge_server.runtimes.docker_engine.ports import Ports
from skybridge_server.runtimes.docker_engine.sandbox import Sandbox


class PortAccess:
    """Opens the ports of sandboxes."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def open(self, sandbox: Sandbox) -> Ports:
        """Open the ports of a sandbox that runs. ContainerStartError, ContainerGoneError."""
        try:
            return NamespacePorts(await self._enter(sandbox.id))
        except OSError as error:
            raise ContainerStartError(
                f"the server cannot enter the container's network ({error.strerror}): it must run "
                "on the engine's host, outside of any container, with CAP_SYS_ADMIN"
            ) from error

    async def _enter(self, container_id: str) -> int:
        """Return a descriptor of a namespace in which sockets can be made. OSError."""
        with translating(of_container(container_id)):
            namespace = await self._engine.call(
                lambda engine: _open_namespace(engine, container_id),
                undo=lambda _, opened: os.close(opened),
            )
        try:
            (await socket_in(namespace)).close()
        except BaseException:
            os.close(namespace)
            raise
        return namespace


def _open_namespace(engine: Engine, container_id: str) -> int:
    """Open the network namespace of a container that runs on this host. OSError."""
    if not engine.local:
        raise ProcessLookupError(None, "the engine is on another host")
    number = _process(engine.short, container_id)
    namespace = os.open(f"/proc/{number}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if number == 0 or _process(engine.short, container_id) != number:  # it may be another's by now
        os.close(namespace)
        raise ProcessLookupError(None, "the container has ended")
    return namespace


def _process(client: APIClient, container_id: str) -> int:
    """Return the number of a container's first process as the engine sees it; 0: it has ended."""
    state: dict[str, Any] = client.inspect_container(container_id)["State"]
    return int(state["Pid"])
