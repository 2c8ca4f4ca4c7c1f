"""What the server says of itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from skybridge_server.models.functions import ContractKind
from skybridge_server.services.engines import Engines, RuntimeStatus
from skybridge_server.services.limits import Limits
from skybridge_server.services.slots import Slots


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What the server says of itself."""

    version: str
    server_id: str
    uptime: timedelta
    limits: Limits
    contracts: tuple[ContractKind, ...]
    default_runtime: str
    running_executions: int
    queued_executions: int


class SystemService:
    """Tells about the server and its runtimes."""

    def __init__(
        self,
        engines: Engines,
        slots: Slots,
        limits: Limits,
        *,
        server_id: str,
        version: str,
    ) -> None:
        self._engines = engines
        self._slots = slots
        self._limits = limits
        self._server_id = server_id
        self._version = version
        self._began = time.monotonic()

    def info(self) -> SystemInfo:
        """Return versions, limits and load."""
        return SystemInfo(
            version=self._version,
            server_id=self._server_id,
            uptime=timedelta(seconds=time.monotonic() - self._began),
            limits=self._limits,
            contracts=tuple(ContractKind),
            default_runtime=self._engines.default,
            running_executions=self._slots.running,
            queued_executions=self._slots.queued,
        )

    async def runtimes(self) -> tuple[RuntimeStatus, ...]:
        """Return what is known of each runtime."""
        return self._engines.status()
