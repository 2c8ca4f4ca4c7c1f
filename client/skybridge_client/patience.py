"""How long a cut stream is resumed before it is given up. Does no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc

from skybridge_client.calls import Deadline
from skybridge_client.errors import (
    DataLossError,
    DeadlineExceededError,
    SkybridgeError,
    UnavailableError,
)

# Codes with which a connection breaks, if the error is not from a Skybridge server.
_BROKEN = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True)
class Patience:
    """How long a cut stream is resumed before it is given up."""

    tries: int = 10
    """Connections in a row that may bring nothing."""
    first_tries: int = 4
    """The same before the first event has come: who finds no server wants to know soon."""
    first_pause: float = 0.1
    """Seconds before the second try without success; each further pause is twice as long."""
    longest_pause: float = 5.0
    """Seconds at most between two tries."""

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures, a little different for each caller."""
        pause = min(self.longest_pause, self.first_pause * 2.0 ** (failures - 1))
        return pause * random.uniform(0.8, 1.0)  # noqa: S311 - spreads callers, hides nothing


class Tries:
    """The connections of one stream, one after the other."""

    def __init__(self, patience: Patience, timeout: float | None) -> None:
        self._patience = patience
        self._deadline = Deadline(timeout)
        self._failures = 0
        self._begun = False

    def left(self) -> float | None:
        """Seconds that are left; None without end."""
        return self._deadline.left()

    def progress(self) -> None:
        """Notes that a connection has brought something."""
        self._failures = 0
        self._begun = True

    def pause(self, error: SkybridgeError, *, cut: bool | None = None) -> float:
        """Seconds to wait before connecting again after an error.

        `cut` says whether that helps, where the error does not tell. Raises the error when
        waiting does not help, or has not helped often enough.
        """
        self._failures += 1
        tries = self._patience.tries if self._begun else self._patience.first_tries
        helps = is_cut(error) if cut is None else cut
        if not helps or self._failures >= tries:
            raise error
        pause = max(self._patience.pause(self._failures), error.retry_delay or 0)
        left = self._deadline.left()
        if left is not None and left <= pause:
            raise DeadlineExceededError("the timeout passed while the stream was cut") from error
        return pause


def is_cut(error: SkybridgeError) -> bool:
    """Whether an error is about the connection, so that another may bring more."""
    made_on_the_way = not error.reason
    return isinstance(error, (UnavailableError, DataLossError)) or (
        made_on_the_way and error.code in _BROKEN
    )
