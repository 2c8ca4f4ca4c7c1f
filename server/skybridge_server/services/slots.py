"""Who runs next: places for executions, bounded over all and per function, with a fair queue.

Functions take turns, and within a function the first come runs first. Waiting is bounded too: what
does not fit is refused at once, so that a caller can back off.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta

from skybridge_server.errors import ResourceExhaustedError
from skybridge_server.models.functions import Scaling

RETRY_AFTER = timedelta(seconds=1)


class Ticket:
    """A place in the queue, then a place to run. Give it back with `release`, whatever happens."""

    def __init__(self, slots: Slots, lane: Lane) -> None:
        self.lane = lane
        self.turn = asyncio.Event()
        self._slots = slots

    async def acquire(self) -> None:
        """Wait for the turn."""
        await self.turn.wait()

    def release(self) -> None:
        """Give the place back; more than once does no harm."""
        self._slots.leave(self)


@dataclass(slots=True, eq=False)
class Lane:
    """The executions of one function."""

    function_uid: str
    max_running: int = 0
    running: set[Ticket] = field(default_factory=set)
    waiting: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)

    @property
    def open(self) -> bool:
        """Whether one more may run, as far as this function goes."""
        return len(self.running) < self.max_running


class Slots:
    """The places for executions of one server.

    Nobody waits while there is a place that it may take: each change hands out what is free.
    """

    def __init__(self, max_running: int, max_queued: int) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        self.running = 0
        self.queued = 0

    @property
    def room(self) -> int:
        """How many more the server has room for, as far as functions let them."""
        return max(self._max_running - self.running, self._max_queued - self.queued, 0)

    def enter(self, function_uid: str, scaling: Scaling, *, always: bool = False) -> Ticket:
        """Take a place to run, or else one in the queue, or raise ResourceExhaustedError.

        `always` lets in what was accepted before, by an earlier process.
        """
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        # A new revision may have changed it, and so opened places for those that wait.
        lane.max_running = min(scaling.max_concurrency or self._max_running, self._max_running)
        self._dispatch()
        if not always:
            self._check_room(lane, scaling)
        self._lanes[function_uid] = lane
        ticket = Ticket(self, lane)
        lane.waiting[ticket] = None
        self.queued += 1
        self._dispatch()
        return ticket

    def resume(self, function_uid: str, scaling: Scaling) -> Ticket:
        """Take the place of what runs already: it has one, however many there are."""
        lane = self._lanes.setdefault(function_uid, Lane(function_uid))
        lane.max_running = min(scaling.max_concurrency or self._max_running, self._max_running)
        ticket = Ticket(self, lane)
        ticket.turn.set()
        lane.running.add(ticket)
        self.running += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a place back, wherever it is."""
        lane = ticket.lane
        if ticket in lane.waiting:
            del lane.waiting[ticket]
            self.queued -= 1
        elif ticket in lane.running:
            lane.running.remove(ticket)
            self.running -= 1
        else:
            return
        if not lane.waiting and not lane.running:
            del self._lanes[lane.function_uid]
        self._dispatch()

    def _dispatch(self) -> None:
        """Hand out free places, one to each function in turn."""
        while self.running < self._max_running:
            lane = next((each for each in self._lanes.values() if each.waiting and each.open), None)
            if lane is None:
                return
            self._lanes.move_to_end(lane.function_uid)
            ticket, _ = lane.waiting.popitem(last=False)
            self.queued -= 1
            lane.running.add(ticket)
            self.running += 1
            ticket.turn.set()

    def _check_room(self, lane: Lane, scaling: Scaling) -> None:
        """Refuse what would wait behind a full queue; who can run at once does not wait."""
        if lane.open and self.running < self._max_running:
            return
        if len(lane.waiting) >= scaling.max_queue_depth:
            raise ResourceExhaustedError(
                f"{len(lane.running)} executions of the function run and {len(lane.waiting)} wait: "
                "come back later, or raise spec.scaling.max_queue_depth or max_concurrency",
                subject="spec.scaling.max_queue_depth",
                retry_after=RETRY_AFTER,
                reason="FUNCTION_QUEUE_FULL",
            )
        if self.queued >= self._max_queued:
            raise ResourceExhaustedError(
                f"{self.queued} executions wait on this server: come back later, or raise "
                "FAAS_MAX_QUEUED_EXECUTIONS",
                subject="FAAS_MAX_QUEUED_EXECUTIONS",
                retry_after=RETRY_AFTER,
                reason="SERVER_QUEUE_FULL",
            )
