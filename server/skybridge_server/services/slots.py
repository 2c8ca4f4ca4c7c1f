"""Who runs next: places for executions, bounded over all and per function, with a fair queue.

Functions take turns, and within a function the first come runs first. Waiting is bounded too: what
does not fit is refused at once, so that a caller can back off.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import timedelta

from skybridge_server.errors import ResourceExhaustedError
from skybridge_server.models.functions import Scaling

RETRY_AFTER = timedelta(seconds=1)


@dataclass(slots=True, eq=False)
class Lane:
    """The executions of one function."""

    function_uid: str
    max_running: int = 0
    running: int = 0
    queued: int = 0
    waiting: deque[tuple[Ticket, asyncio.Future[None]]] = field(default_factory=deque)

    @property
    def ready(self) -> bool:
        """Whether one that waits may run, as far as this function goes."""
        while self.waiting and self.waiting[0][1].done():
            self.waiting.popleft()  # it left while it waited
        return bool(self.waiting) and self.running < self.max_running


class Ticket:
    """A place in the queue, then a place to run. Give it back with `release`, whatever happens."""

    def __init__(self, slots: Slots, lane: Lane) -> None:
        self._slots = slots
        self._lane = lane
        self._running = False
        self._released = False

    async def acquire(self) -> None:
        """Wait for the turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane.waiting.append((self, turn))
        self._slots.dispatch()
        await turn

    def run(self) -> None:
        """Move from the queue to a place to run."""
        self._running = True
        self._slots.count(self._lane, queued=-1, running=1)

    def release(self) -> None:
        """Give the place back; more than once does no harm."""
        if self._released:
            return
        self._released = True
        if self._running:
            self._slots.count(self._lane, running=-1)
        else:
            self._slots.count(self._lane, queued=-1)
        self._slots.dispatch()


class Slots:
    """The places for executions of one server."""

    def __init__(self, max_running: int, max_queued: int) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self.running = 0
        self.queued = 0

    def enter(self, function_uid: str, scaling: Scaling, *, always: bool = False) -> Ticket:
        """Take a place in the queue, or raise ResourceExhaustedError.

        `always` lets in what was accepted before, by an earlier process.
        """
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        # A new revision may have changed it.
        lane.max_running = min(scaling.max_concurrency or self._max_running, self._max_running)
        if not always:
            self._check_room(lane, scaling)
        self._lanes[function_uid] = lane
        self.count(lane, queued=1)
        return Ticket(self, lane)

    def count(self, lane: Lane, *, queued: int = 0, running: int = 0) -> None:
        """Note who came, left, or moved from the queue to a place to run."""
        lane.queued += queued
        lane.running += running
        self.queued += queued
        self.running += running
        if not lane.queued and not lane.running:
            del self._lanes[lane.function_uid]

    def dispatch(self) -> None:
        """Hand out free places, one to each function in turn."""
        while self.running < self._max_running:
            lane = next((lane for lane in self._lanes.values() if lane.ready), None)
            if lane is None:
                return
            self._lanes.move_to_end(lane.function_uid)
            ticket, turn = lane.waiting.popleft()
            ticket.run()
            turn.set_result(None)

    def _check_room(self, lane: Lane, scaling: Scaling) -> None:
        """Refuse what would wait behind a full queue; who can run at once does not wait.

        Those that entered and have not asked for their turn yet count as if they ran already.
        """
        free_here = lane.max_running - lane.running - lane.queued
        free_at_all = self._max_running - self.running - self.queued
        if free_here > 0 and free_at_all > 0:
            return
        waiting_here = lane.queued if free_here > 0 else -free_here
        if waiting_here >= scaling.max_queue_depth:
            raise ResourceExhaustedError(
                f"{lane.running} executions of the function run and {waiting_here} wait: come back "
                "later, or raise spec.scaling.max_queue_depth or max_concurrency",
                subject="spec.scaling.max_queue_depth",
                retry_after=RETRY_AFTER,
                reason="FUNCTION_QUEUE_FULL",
            )
        if -free_at_all >= self._max_queued:
            raise ResourceExhaustedError(
                f"{-free_at_all} executions wait on this server: come back later, or raise "
                "FAAS_MAX_QUEUED_EXECUTIONS",
                subject="FAAS_MAX_QUEUED_EXECUTIONS",
                retry_after=RETRY_AFTER,
                reason="SERVER_QUEUE_FULL",
            )
