"""Who runs next: places for executions, bounded over all and per function, with a fair queue.

Functions take turns, and within a function the first come runs first. Waiting is bounded too: what
does not fit is refused at once, so that a caller can back off. Where a function's instances are
kept, an execution gets its place together with a seat on one, and else waits without a place, so
that it holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from skybridge_server.errors import ResourceExhaustedError, SkybridgeError
from skybridge_server.models.functions import Scaling

RETRY_AFTER = timedelta(seconds=1)


class Seat(Protocol):
    """What an execution needs beside a place."""

    def leave(self) -> None:
        """Give the seat back."""
        ...


class Seats(Protocol):
    """The seats of one revision."""

    def take(self) -> Seat | None:
        """Return a free seat; None while there is none."""
        ...

    def asked(self, waiting: Mapping[Ticket, None], room: int) -> None:
        """Hear who waits, the first come first, and how many of them could run with a seat."""
        ...


class _Anywhere:
    """Seats without bounds: every execution makes a container of its own."""

    def take(self) -> Seat:
        return self

    def leave(self) -> None:
        """Nothing was taken."""

    def asked(self, waiting: Mapping[Ticket, None], room: int) -> None:
        """Nobody waits for a seat."""


ANYWHERE = _Anywhere()


class Ticket:
    """A place in the queue, then a place to run. Give it back with `release`, whatever happens."""

    def __init__(self, slots: Slots, lane: Lane, seats: Seats) -> None:
        self.lane = lane
        self.seats = seats
        self.seat: Seat | None = None
        """Set with the turn."""
        self.turn = asyncio.Event()
        self.covered = asyncio.Event()
        """Set once a seat is being made for it, and with the turn."""
        self._slots = slots
        self._error: SkybridgeError | None = None

    async def acquire(self) -> None:
        """Wait for the turn; raises why the seat that was being made for it did not come."""
        await self.turn.wait()
        if self._error is not None:
            raise self._error

    def fail(self, error: SkybridgeError) -> None:
        """Let `acquire` raise: the seat that was being made for it does not come."""
        self._error = error
        self.release()
        self.covered.set()
        self.turn.set()

    def again(self) -> None:
        """Give back a seat that turned out to be of no use, and be the next to get one."""
        self._slots.again(self)

    def release(self) -> None:
        """Give the place back; more than once does no harm."""
        self._slots.leave(self)


_Queue = OrderedDict[Ticket, None]


@dataclass(slots=True, eq=False)
class Lane:
    """The executions of one function."""

    function_uid: str
    max_running: int = 0
    running: set[Ticket] = field(default_factory=set)
    waiting: OrderedDict[Seats, _Queue] = field(default_factory=OrderedDict)
    """By revision, the oldest first, so that none waits for the seats of another."""

    @property
    def queued(self) -> int:
        return sum(map(len, self.waiting.values()))

    @property
    def room(self) -> int:
        """How many more may run, as far as this function goes."""
        return max(self.max_running - len(self.running), 0)

    def enter(self, ticket: Ticket, *, first: bool = False) -> None:
        queue = self.waiting.get(ticket.seats)
        if queue is None:
            queue = self.waiting[ticket.seats] = OrderedDict()
        queue[ticket] = None
        if first:
            queue.move_to_end(ticket, last=False)

    def leave(self, ticket: Ticket) -> bool:
        """Take a ticket out of the queue; False if it does not wait."""
        queue = self.waiting.get(ticket.seats)
        if queue is None or ticket not in queue:
            return False
        del queue[ticket]
        return True

    def next(self) -> Ticket | None:
        """Take the first that can run out of the queue."""
        if len(self.running) >= self.max_running:
            return None
        for seats, queue in self.waiting.items():
            if queue and (seat := seats.take()) is not None:
                ticket, _ = queue.popitem(last=False)
                ticket.seat = seat
                return ticket
        return None


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

    def enter(
        self,
        function_uid: str,
        scaling: Scaling,
        seats: Seats = ANYWHERE,
        *,
        always: bool = False,
    ) -> Ticket:
        """Take a place to run, or else one in the queue, or raise ResourceExhaustedError.

        `always` lets in what was accepted before, by an earlier process.
        """
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        # A new revision may have changed it, and so opened places for those that wait.
        lane.max_running = _most_running(scaling, self._max_running)
        self._serve(lane)
        if not always:
            self._check_room(lane, scaling)
        self._lanes[function_uid] = lane
        ticket = Ticket(self, lane, seats)
        lane.enter(ticket)
        self.queued += 1
        self._serve(lane)
        return ticket

    def take(self, function_uid: str, scaling: Scaling, seats: Seats) -> Ticket | None:
        """Take a place to run and a seat, if both are there and nobody waits for them."""
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        lane.max_running = _most_running(scaling, self._max_running)
        if lane.queued or not lane.room or self.running >= self._max_running:
            return None
        seat = seats.take()
        if seat is None:
            return None
        self._lanes[function_uid] = lane
        self.queued += 1  # for a moment
        ticket = Ticket(self, lane, seats)
        ticket.seat = seat
        self._run(ticket)
        return ticket

    def resume(self, function_uid: str, scaling: Scaling) -> Ticket:
        """Take the place of what runs already: it has one, however many there are."""
        lane = self._lanes.setdefault(function_uid, Lane(function_uid))
        lane.max_running = _most_running(scaling, self._max_running)
        ticket = Ticket(self, lane, ANYWHERE)
        ticket.covered.set()
        ticket.turn.set()
        lane.running.add(ticket)
        self.running += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a place back, wherever it is."""
        lane = ticket.lane
        was_full = self.running >= self._max_running
        if lane.leave(ticket):
            self.queued -= 1
        elif ticket in lane.running:
            lane.running.remove(ticket)
            self.running -= 1
            if ticket.seat is not None:
                ticket.seat.leave()
        else:
            return
        if was_full:
            self._serve_all()
        else:
            self._serve(lane)
        for seats in [seats for seats, queue in lane.waiting.items() if not queue]:
            del lane.waiting[seats]
        if not lane.waiting and not lane.running:
            self._lanes.pop(lane.function_uid, None)

    def again(self, ticket: Ticket) -> None:
        """Let one that runs wait for another seat, before everybody else."""
        lane, seat = ticket.lane, ticket.seat
        lane.running.remove(ticket)
        self.running -= 1
        ticket.seat = None
        ticket.covered.clear()
        ticket.turn.clear()
        lane.enter(ticket, first=True)
        self.queued += 1
        if seat is not None:
            seat.leave()
        self._serve(lane)

    def serve(self, function_uid: str) -> None:
        """Hand out seats of a function that have become free."""
        lane = self._lanes.get(function_uid)
        if lane is not None:
            self._serve(lane)

    def _serve_all(self) -> None:
        """Hand out free places, one to each function in turn."""
        while self.running < self._max_running:
            for lane in self._lanes.values():
                if lane.waiting and (ticket := lane.next()) is not None:
                    break
            else:
                break
            self._run(ticket)
        for lane in [*self._lanes.values()]:
            if lane.waiting:
                self._ask(lane)

    def _serve(self, lane: Lane) -> None:
        """Hand out free places to one function: the others have what they can take already."""
        while self.running < self._max_running and (ticket := lane.next()) is not None:
            self._run(ticket)
        self._ask(lane)

    def _run(self, ticket: Ticket) -> None:
        lane = ticket.lane
        self._lanes.move_to_end(lane.function_uid)
        self.queued -= 1
        lane.running.add(ticket)
        self.running += 1
        ticket.covered.set()
        ticket.turn.set()

    def _ask(self, lane: Lane) -> None:
        room = min(lane.room, self._max_running - self.running)
        for seats, queue in [*lane.waiting.items()]:
            seats.asked(queue, room)

    def _check_room(self, lane: Lane, scaling: Scaling) -> None:
        """Refuse what would wait behind a full queue; who can run at once does not wait.

        Neither does who would run if it had a seat: that is being made.
        """
        queued = lane.queued
        if queued < lane.room and self.running < self._max_running:
            return
        if queued >= scaling.max_queue_depth:
            raise ResourceExhaustedError(
                f"{len(lane.running)} executions of the function run and {queued} wait: "
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


def _most_running(scaling: Scaling, server: int) -> int:
    """Return how many executions of a function may run at once."""
    seats = scaling.max_instances * scaling.instance_concurrency
    return min(scaling.max_concurrency or server, seats or server, server)
