"""Following an execution's journal across cuts: nothing twice, nothing missed. Does no I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from skybridge.faas.v1.execution_pb2 import ExecutionEvent
from skybridge_client.calls import Stream
from skybridge_client.errors import (
    AbortedError,
    DataLossError,
    SkybridgeError,
    UnavailableError,
)
from skybridge_client.patience import Patience, Tries

# Events about the connection and not about the execution: they have no place of their own.
_NOT_STORED = ("heartbeat", "input_ack")


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
        self._tries = Tries(patience, follow.start.timeout)
        self._execution = ""
        self._sequence = follow.after_sequence
        self._connections = 0
        self.ended = False
        """Whether the result was seen: nothing comes after it."""

    def connect(self) -> Stream[ExecutionEvent]:
        """The call to make now: the first one, or one that goes on after the last event."""
        self._connections += 1
        call = self._follow.start
        if self._execution:
            call = self._follow.resume(self._execution, self._sequence)
        return replace(call, timeout=self._tries.left())

    def accept(self, event: ExecutionEvent) -> bool:
        """Takes note of an event, and says whether it is to be shown.

        Raises DataLossError when events before it are missing: a reason to connect again.
        """
        self._execution = event.execution
        if event.WhichOneof("event") in _NOT_STORED:
            self._tries.progress()
            return False
        if event.sequence <= self._sequence:
            return False
        if event.sequence > self._sequence + 1:
            raise DataLossError(
                f"{event.execution}: event {event.sequence} came after event {self._sequence}"
            )
        self._tries.progress()
        self._sequence = event.sequence
        self.ended = event.HasField("result")
        return True

    def cut(self, error: SkybridgeError | None) -> float:
        """Says how many seconds to wait before connecting again; None: the stream just ended.

        Raises the error when waiting does not help, or has not helped often enough.
        """
        reason = error or UnavailableError("the stream ended before the execution did")
        if isinstance(reason, AbortedError):
            # The server has not yet noticed that our last connection is gone.
            return self._tries.pause(reason, cut=self._connections > 1)
        return self._tries.pause(reason)
