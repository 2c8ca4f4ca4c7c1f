"""Executions that failed for good while nobody waited for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An execution that failed for good, and what became of it since."""

    execution: Execution
    redriven_as: ExecutionName | None = None
    """The execution that was made of it."""
    redrive_time: datetime | None = None

    @property
    def name(self) -> ExecutionName:
        return self.execution.name
