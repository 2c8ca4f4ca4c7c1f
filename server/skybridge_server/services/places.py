"""Places for executions: one to run, and where instances are kept, a seat on one of them."""

from __future__ import annotations

from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import Revision
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.slots import ANYWHERE, Seats, Slots, Ticket


class Places:
    """Gives executions of a revision their places."""

    def __init__(self, slots: Slots, pool: Pool) -> None:
        self._slots = slots
        self._pool = pool

    def enter(self, function_uid: str, revision: Revision) -> Ticket:
        """Take a place to run, or one in the queue. ResourceExhaustedError: both are full."""
        seats = self._seats(function_uid, revision)
        return self._slots.enter(function_uid, revision.spec.scaling, seats)

    def take(self, function_uid: str, revision: Revision) -> Ticket | None:
        """Take a place on an idle instance; None: there is none, or others wait for one."""
        if not revision.spec.contract.kind.warm:
            return None
        seats = self._pool.seats(function_uid, revision)
        return self._slots.take(function_uid, revision.spec.scaling, seats)

    def take_in(self, function_uid: str, revision: Revision, number: int) -> Ticket:
        """Give a place in the queue to the first of those that wait in the store."""
        seats = self._seats(function_uid, revision)
        return self._slots.take_in(function_uid, number, revision.spec.scaling, seats)

    def readmit(self, function_uid: str, revision: Revision, state: ExecutionState) -> Ticket:
        """Give a place to what was accepted earlier, however full it is."""
        scaling, warm = revision.spec.scaling, revision.spec.contract.kind.warm
        waits = state is ExecutionState.QUEUED or (warm and state is ExecutionState.STARTING)
        if not waits:
            return self._slots.resume(function_uid, scaling)
        seats = self._seats(function_uid, revision)
        return self._slots.enter(function_uid, scaling, seats, always=True)

    def _seats(self, function_uid: str, revision: Revision) -> Seats:
        warm = revision.spec.contract.kind.warm
        return self._pool.seats(function_uid, revision) if warm else ANYWHERE
