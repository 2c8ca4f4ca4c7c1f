"""Who is told of the end of an execution, and what became of that."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from skybridge_server.models.names import ExecutionName


@dataclass(frozen=True, slots=True)
class Destination:
    """A function or an URL; neither: nobody."""

    function: str = ""
    """Full name, or id of one in the namespace of the function that says so."""
    url: str = ""
    secret: str = field(default="", repr=False)
    """Signs what is posted to the URL."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Who is told of each kind of end."""

    on_success: Destination = Destination()
    on_failure: Destination = Destination()


NOBODY = Destination()
NO_DESTINATIONS = Destinations()


class DeliveryState(enum.IntEnum):
    """How far a delivery has come. Values as in the proto."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """Telling a destination of the end of an execution."""

    uid: str
    execution: ExecutionName
    destination: Destination
    create_time: datetime
    next_time: datetime | None
    """When to try it; None once it is over."""
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    message: str = ""
    """What went wrong the last time."""
    told: ExecutionName | None = None
    """The execution of the function that was told."""
    end_time: datetime | None = None
