"""Following an execution's journal across cuts: nothing twice, nothing missed. Does no I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import grpc

from skybridge.faas.v1.execution_pb2 import ExecutionEvent
from skybridge_client.calls import Deadline, Stream
from skybridge_client.errors import (
    AbortedError,
    DataLossError,
    DeadlineExceededError,
    SkybridgeError,
    UnavailableError,
)

# Events about the connection and not about the execution: they have no place of their own.
_NOT_STORED = ("heartbeat", "input_ack")

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


@dataclass(frozen=True)
class Follow:
    """A journal to follow: the call that starts, and the one that goes on after a cut."""

    start: Stream[ExecutionEvent]
    resume: Callable[[str, int], Stream[ExecutionEvent]]
    """Takes the execution's name and the last sequence that was seen."""
    after_sequence: int = 0


class Journal:
    """What one reader has seen of a journal.

    The reader connects, hands in every event that comes and shows those that `accept` says
    are new; after an end or an error it says so by `cut`, waits, and connects again, until
    `ended`.
    """

    def __init__(self, follow: Follow, patience: Patience) -> None:
        self._follow = follow
        self._patience = patience
        self._deadline = Deadline(follow.start.timeout)
        self._execution = ""
        self._sequence = follow.after_sequence
        self._connections = 0
        self._failures = 0
        self.ended = False
        """Whether the result was seen: nothing comes after it."""

    def connect(self) -> Stream[ExecutionEvent]:
        """The call to make now: the first one, or one that goes on after the last event."""
        self._connections += 1
        call = self._follow.start
        if self._execution:
            call = self._follow.resume(self._execution, self._sequence)
        return replace(call, timeout=self._deadline.left())

    def accept(self, event: ExecutionEvent) -> bool:
        """Takes note of an event, and says whether it is to be shown.

        Raises DataLossError when events before it are missing: a reason to connect again.
        """
        self._execution = event.execution
        if event.WhichOneof("event") in _NOT_STORED:
            self._failures = 0
            return False
        if event.sequence <= self._sequence:
            return False
        if event.sequence > self._sequence + 1:
            raise DataLossError(
                f"{event.execution}: event {event.sequence} came after event {self._sequence}"
            )
        self._failures = 0
        self._sequence = event.sequence
        self.ended = event.HasField("result")
        return True

    def cut(self, error: SkybridgeError | None) -> float:
        """Says how many seconds to wait before connecting again; None: the stream just ended.

        Raises the error when waiting does not help, or has not helped often enough.
        """
        reason = error or UnavailableError("the stream ended before the execution did")
        self._failures += 1
        tries = self._patience.tries if self._execution else self._patience.first_tries
        if not self._is_cut(reason) or self._failures >= tries:
            raise reason
        pause = max(self._patience.pause(self._failures), reason.retry_delay or 0)
        left = self._deadline.left()
        if left is not None and left <= pause:
            raise DeadlineExceededError("the timeout passed while the stream was cut") from reason
        return pause

    def _is_cut(self, error: SkybridgeError) -> bool:
        if isinstance(error, AbortedError):
            # The server has not yet noticed that our last connection is gone.
            return self._connections > 1
        made_on_the_way = not error.reason
        return isinstance(error, (UnavailableError, DataLossError)) or (
            made_on_the_way and error.code in _BROKEN
        )
