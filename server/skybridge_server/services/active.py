"""An execution that has not ended: what stands in memory of it.

Whatever wants to stop it (a cancel, a timeout, a caller that went away) calls `stop`; the first
reason wins, and is what everybody sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import FailedPreconditionError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import Revision
from skybridge_server.models.names import ExecutionName
from skybridge_server.runtimes.base import Attachment
from skybridge_server.services.begun import Begun
from skybridge_server.services.bell import Bell
from skybridge_server.services.journal import Journal
from skybridge_server.services.slots import Ticket
from skybridge_server.services.stdin import Stdin

CLOCK_SLACK = timedelta(milliseconds=100)
"""A caller whose deadline passes may hang up that much before our own clock says so."""

_CANCELLABLE = frozenset({ExecutionState.STARTING, ExecutionState.RUNNING})


@dataclass(slots=True, eq=False, weakref_slot=True)
class ActiveExecution:
    """An execution between its acceptance and its end."""

    journal: Journal
    revision: Revision
    ticket: Ticket
    queued_time: datetime
    """Since when it waits for a place."""
    deadline: float | None = None
    """Until when it waits for one, by the clock of the loop; None: as long as if it came now."""
    disconnect_grace: float | None = None
    """Seconds that it lives without a caller; None: for ever."""
    not_after: datetime | None = None
    """Deadline of the caller's rpc."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    stop_reason: Failure | None = None
    last_attempt: bool = False
    """Whether somebody wants it over: a failure is then not tried again."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the end is on disk."""
    left_behind: bool = False
    """Whether an earlier process had it: it may have a container."""
    handed_over: bool = False
    """Whether a later process is to go on with it: its container stays."""
    input: bytes | None = None
    """What goes in, where it need not be read from the store."""
    on_stop: Callable[[], None] | None = None
    """Called when it is told to stop, for those who do not wait for `stopping`."""
    begun: Begun | None = None
    """What an instance does of it already, where it was begun before it was stored."""
    container_id: str = ""
    attachment: Attachment | None = None
    attached: Bell = field(default_factory=Bell)
    stdin: Stdin = field(default_factory=Stdin)
    ended_container_id: str = ""
    """Its container, once the engine has told that it ended."""
    container_end: Bell = field(default_factory=Bell)
    """Rings when the engine does."""
    _exited: bool = False
    _callers: int = 0
    _grace: asyncio.TimerHandle | None = None

    @property
    def name(self) -> ExecutionName:
        return self.journal.name

    def stop(self, reason: FailureReason, message: str) -> None:
        """Ask it to stop; nothing happens if it is stopping or has ended already."""
        if self.stop_reason is not None or self._exited:
            return
        self.stop_reason = Failure(reason, message)
        if self.journal.state in _CANCELLABLE:
            self.journal.change_state(ExecutionState.CANCELLING, failure=self.stop_reason)
        self.stopping.set()
        if self.on_stop is not None:
            self.on_stop()

    @property
    def can_be_handed_over(self) -> bool:
        """Whether a later process can go on with it: it runs, and wants nothing more from us."""
        execution = self.journal.execution
        runs = execution.state is ExecutionState.RUNNING and not self._exited
        return runs and execution.input_given and not execution.interactive

    @property
    def ending(self) -> bool:
        """Whether its process has ended, and its end is about to be stored."""
        return self._exited

    def container_ended(self, container_id: str) -> None:
        """Hear from the engine that a container has ended, perhaps one it no longer has."""
        if container_id == self.container_id:
            self.ended_container_id = container_id
            self.container_end.ring()

    def exited(self) -> None:
        """Note that the process has ended: from now on nothing can stop it any more."""
        self._exited = True
        self._cancel_grace()

    async def end(self) -> Execution:
        """Wait for the end of its attempt, and return it as it then is."""
        await self.over.wait()
        return self.journal.execution

    async def running(self) -> Attachment:
        """Wait until its process runs, and return the connection to it.

        FailedPreconditionError when it ends before.
        """
        while self.attachment is None:
            if self._exited or self.over.is_set():
                raise FailedPreconditionError(
                    f"execution '{self.name}' has ended", reason="EXECUTION_ENDED"
                )
            await self.attached.wait()
        return self.attachment

    # -- callers --------------------------------------------------------------------------------

    @contextmanager
    def caller(self, deadline: datetime | None = None) -> Iterator[None]:
        """Count as a caller of it, until a deadline. When the last one leaves, its grace runs."""
        self._callers += 1
        self._cancel_grace()
        try:
            yield
        finally:
            self._callers -= 1
            self.leave_alone(deadline)

    def leave_alone(self, deadline: datetime | None = None) -> None:
        """Let its grace run, if it needs a caller and has none.

        A caller that left at its `deadline` did not just go away, and says so.
        """
        if self._callers or self.disconnect_grace is None or self._exited:
            return
        if deadline is not None and datetime.now(UTC) >= deadline - CLOCK_SLACK:
            self.stop(FailureReason.DEADLINE, "the caller's deadline passed")
        elif self.disconnect_grace > 0:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(self.disconnect_grace, self._stop_abandoned)
        else:
            self._stop_abandoned()

    def _cancel_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _stop_abandoned(self) -> None:
        self.stop(FailureReason.DISCONNECTED, "its caller went away")
