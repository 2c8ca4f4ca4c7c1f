"""Who runs an execution, by the contract of its function."""

from __future__ import annotations

from dataclasses import dataclass

from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.engines import Engines
from skybridge_server.services.maker import Maker
from skybridge_server.services.pool.warm_runner import WarmRunner
from skybridge_server.services.retries import Retries
from skybridge_server.services.runner import Runner


@dataclass(frozen=True, slots=True)
class Runners:
    """Makes them, with all that they need."""

    engines: Engines
    executions: ExecutionRepository
    retries: Retries
    ahead: Ahead
    maker: Maker
    server_id: str

    def of(self, active: ActiveExecution) -> Runner:
        """Return what runs an execution."""
        kind = WarmRunner if active.revision.spec.contract.kind.warm else Runner
        return kind(
            active,
            self.engines,
            self.executions,
            self.retries,
            self.ahead,
            self.maker,
            self.server_id,
        )
