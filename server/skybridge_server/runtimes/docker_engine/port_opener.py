"""Finds the way to the ports of a sandbox, and thereby of the container that joins its network."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import structlog

from skybridge_server.errors import ContainerStartError
from skybridge_server.models.ports import PortAccess
from skybridge_server.runtimes.docker_engine import calls
from skybridge_server.runtimes.docker_engine.client import EngineClient
from skybridge_server.runtimes.docker_engine.errors import of_container, translating
from skybridge_server.runtimes.docker_engine.namespace import NamespacePorts, socket_in
from skybridge_server.runtimes.docker_engine.ports import Ports
from skybridge_server.runtimes.docker_engine.sandbox import NetworkIdentity, Sandbox

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger(__name__)


class PortOpener:
    """Opens the ports of sandboxes, each in the best way that works for it.

    Only a sandbox that runs can show whether the namespace that we opened is its own, so each is
    asked. It takes 2 ms, and what it costs to be wrong is a function's traffic in another network.
    """

    def __init__(self, engine: EngineClient, access: PortAccess) -> None:
        self._engine = engine
        self._access = access
        self.way = ""
        """How the last one was opened, for an operator."""

    async def open(self, sandbox: Sandbox) -> Ports:
        """Open the ports of a sandbox that runs. ContainerStartError, ContainerGoneError."""
        if self._access is PortAccess.RELAY:
            return self._relay(sandbox, "as FAAS_PORT_ACCESS says")
        try:
            namespace = await self._enter(sandbox)
        except OSError as error:
            return self._without_namespace(sandbox, error.strerror or str(error))
        self._tell("in the network of their container")
        return NamespacePorts(namespace)

    def _without_namespace(self, sandbox: Sandbox, reason: str) -> Ports:
        if self._access is PortAccess.NAMESPACE:
            raise ContainerStartError(
                f"the server cannot enter the container's network ({reason}): give it "
                "CAP_SYS_ADMIN on the engine's host, or set FAAS_PORT_ACCESS=auto"
            )
        return self._relay(sandbox, reason)

    def _relay(self, sandbox: Sandbox, reason: str) -> Ports:
        self._tell(f"by relay: {reason}")
        return sandbox.relay

    def _tell(self, way: str) -> None:
        """Log which way it is, once, and when that changes."""
        if way != self.way:
            self.way = way
            log.info("ports of containers are reached", way=way)

    async def _enter(self, sandbox: Sandbox) -> int:
        """Return a descriptor of its namespace, in which sockets can be made. OSError."""
        with translating(of_container(sandbox.id)):
            number = await self._engine.call(lambda engine: calls.process(engine.short, sandbox.id))
        namespace = _open_namespace(number, sandbox.network)
        try:
            (await socket_in(namespace)).close()
        except BaseException:
            os.close(namespace)
            raise
        return namespace


def _open_namespace(number: int, network: NetworkIdentity) -> int:
    """Open the network namespace of a process on this host, if it is this one. OSError."""
    if network.boot != BOOT_ID.read_text().strip():
        raise ProcessLookupError(errno.ESRCH, "the engine is on another host")
    namespace = os.open(f"/proc/{number}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if f"net:[{os.fstat(namespace).st_ino}]" != network.namespace:
        os.close(namespace)
        raise ProcessLookupError(errno.ESRCH, "the engine counts other processes than the server")
    return namespace
