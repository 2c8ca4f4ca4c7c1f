"""An execution that an instance does already, while only its caller knows of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from skybridge_server.contracts.base import Exchange
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import Function, Revision
from skybridge_server.models.names import ExecutionName
from skybridge_server.models.values import value
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.requests import ExecutionOutput, ExecutionRequest
from skybridge_server.services.slots import Ticket


@value(frozen=True, slots=True)
class Finished:
    """An execution that has ended, with what it wrote."""

    execution: Execution
    output: ExecutionOutput
    stored: asyncio.Future[None]
    """Done once it is on disk, which an answer need not wait for where durability is DEFERRED."""


@dataclass(slots=True)
class Batch:
    """Executions that are answered together, so they may as well be stored together."""

    left: int
    """How many have not ended."""


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
    not_after: datetime | None
    """Deadline of the caller's rpc."""
    exchange: Exchange
    end: asyncio.Future[Finished | None]
    """Set once it may be answered; to None if it goes on, or broke: then it is to be taken over."""
    batch: Batch | None = None
    over: bool = False
    """Whether it has ended, or others go on with it."""
    finished: Finished | None = None
    """Set once it has ended well, perhaps before it is on disk."""
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
