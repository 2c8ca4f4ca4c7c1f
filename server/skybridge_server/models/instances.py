"""Instances: containers that are kept to take the executions of one revision."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from skybridge_server.models.names import InstanceName, RevisionName


class InstanceState(enum.IntEnum):
    """Where an instance stands. Values as in the proto."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    PAUSED = 4
    STOPPING = 5


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """An instance as it is seen from outside."""

    name: InstanceName
    revision: RevisionName
    state: InstanceState
    container_id: str
    running: int
    """Executions that it works on now."""
    executions: int
    """Executions that it has taken."""
    create_time: datetime
    init: timedelta | None
    """From the start of its process until it was ready."""
    last_used_time: datetime | None
    log_tail: bytes
    """What it wrote last beside executions."""
