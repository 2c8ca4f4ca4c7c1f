"""What the end of an execution leaves to do; it is stored in one with the result."""

from __future__ import annotations

from dataclasses import dataclass

from skybridge_server.models.destinations import Delivery


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What follows from an end."""

    dead_letter: bool = False
    """Whether the execution is kept until somebody deals with it."""
    delivery: Delivery | None = None
    """Whom to tell."""


NOTHING = Aftermath()
