"""How the server reaches ports of containers."""

from __future__ import annotations

from enum import StrEnum


class PortAccess(StrEnum):
    """The ways to a container's ports; AUTO takes NAMESPACE where it can."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    """Sockets that are made in its network: fast, but takes CAP_SYS_ADMIN on the engine's host."""
    RELAY = "relay"
    """A program in its network carries the bytes over the engine: works everywhere."""
