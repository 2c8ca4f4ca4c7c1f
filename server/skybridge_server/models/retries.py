"""How often an execution that nobody waits for is tried, and after which failures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from skybridge_server.models.executions import FailureReason

WANTED = frozenset({FailureReason.CANCELLED, FailureReason.DISCONNECTED, FailureReason.DEADLINE})
"""Somebody asked for these ends, so they are never tried again."""
PERMANENT = frozenset(
    {FailureReason.ENTRY_POINT, FailureReason.IMAGE_UNAVAILABLE, FailureReason.OUTPUT_LIMIT}
)
"""Another attempt would most likely end so again."""
USUAL = tuple(reason for reason in FailureReason if reason not in WANTED | PERMANENT)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What happens when an execution fails; one attempt means that nothing is tried again."""

    max_attempts: int = 1
    initial_backoff: timedelta = timedelta(seconds=1)
    max_backoff: timedelta = timedelta(minutes=5)
    backoff_coefficient: float = 2.0
    jitter: float = 0.5
    """Share of a backoff that is left to chance, 0 to 1."""
    max_age: timedelta = timedelta(hours=6)
    """No attempt begins later than this after the execution could start for the first time."""
    retry_on: tuple[FailureReason, ...] = USUAL
    exit_codes: tuple[int, ...] = ()
    """With EXIT_CODE in `retry_on`: only these; empty for all."""
    dead_letters: bool = False
    """Whether what failed for good is kept as a dead letter."""
