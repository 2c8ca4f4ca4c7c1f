"""How a server stops."""

from __future__ import annotations

from enum import StrEnum


class ShutdownPolicy(StrEnum):
    """What becomes of executions that run longer than a server that stops waits for them."""

    CANCEL = "cancel"
    """They are cancelled."""
    HANDOVER = "handover"
    """They run on, and the next start of the server goes on with them."""
