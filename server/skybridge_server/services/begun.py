"""An execution that an instance does already, while only its caller knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from skybridge_server.contracts.base import Exchange
from skybridge_server.models.functions import Function, Revision
from skybridge_server.models.names import ExecutionName
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.slots import Ticket


@dataclass(slots=True, eq=False)
class Begun:
    """What has begun, with all that it takes to end it or to let others take it over."""

    name: ExecutionName
    request: ExecutionRequest
    function: Function
    revision: Revision
    ticket: Ticket
    instance: Instance
    start_time: datetime
    moment: float
    """When it started, by the clock of the loop."""
    exchange: Exchange
    log: list[bytes] = field(default_factory=list)
    """What the instance has written to stdout and stderr, where that can be of no other."""

    async def add_log(self, data: bytes) -> None:
        self.log.append(data)

    def give_up(self) -> None:
        """Let go of it and of the instance, which may still be at it."""
        self.exchange.abandon()
        self.instance.log.belongs_to(None)
        self.instance.retire()
        self.ticket.release()
