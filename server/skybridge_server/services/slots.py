"""Who runs next: places for executions, bounded over all and per function, with a fair queue.

Functions take turns, and within a function the first come runs first. Waiting is bounded too: what
does not fit is refused at once, so that a caller can back off. Where a function's instances are
kept, an execution gets its place together with a seat on one, and else waits without a place, so
that it holds up nobody.

Only the first of those that wait have tickets: the others are counted here and wait in the store,
in the order of their numbers, see `services/backlog.py`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Protocol

from skybridge_server.errors import ResourceExhaustedError, SkybridgeError
from skybridge_server.models.functions import Scaling

RETRY_AFTER = timedelta(seconds=1)
AHEAD = 16
"""Tickets of a function beyond those that could run at once, so that none waits for the store."""


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


_SET = asyncio.Event()
"""What nobody has to wait for. Shared: most executions on instances never need events."""
_SET.set()


class Ticket:
    """A place in the queue, then a place to run. Give it back with `release`, whatever happens."""

    def __init__(
        self, slots: Slots, lane: Lane, seats: Seats, number: int, seat: Seat | None = None
    ) -> None:
        """`seat`: of one whose turn it is at once."""
        self.lane = lane
        self.number = number
        """Its place in the order of all that ever came."""
        self.seats = seats
        self.seat = seat
        """Set with the turn."""
        self.turn = _SET if seat else asyncio.Event()
        self.covered = _SET if seat else asyncio.Event()
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
    stored: int = 0
    """How many wait in the store."""
    late: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    """Those that came after some that wait in the store, in order."""
    latest: int = -1
    """Number of the last that came: its revision says how many may run."""

    @property
    def early(self) -> int:
        """How many wait before all that are in the store."""
        return sum(map(len, self.waiting.values()))

    @property
    def queued(self) -> int:
        return self.early + len(self.late) + self.stored

    @property
    def is_queue(self) -> bool:
        """Whether any wait."""
        return bool(self.stored or self.late or (self.waiting and any(self.waiting.values())))

    @property
    def room(self) -> int:
        """How many more may run, as far as this function goes."""
        return max(self.max_running - len(self.running), 0)

    def limit(self, most: int, number: int) -> bool:
        """Let as many run as the one with a number says, unless others came after it.

        True if that opened places.
        """
        if number < self.latest:
            return False
        opened = most > self.max_running
        self.max_running, self.latest = most, number
        return opened

    def enter(self, ticket: Ticket) -> None:
        if self.stored:
            self.late[ticket] = None
        else:
            self.line_up(ticket)

    def line_up(self, ticket: Ticket, *, first: bool = False) -> None:
        """Let a ticket wait behind those that have tickets, since it comes before the others."""
        queue = self.waiting.get(ticket.seats)
        if queue is None:
            queue = self.waiting[ticket.seats] = OrderedDict()
        queue[ticket] = None
        if first:
            queue.move_to_end(ticket, last=False)

    def leave(self, ticket: Ticket) -> bool:
        """Take a ticket out of the queue; False if it does not wait."""
        if ticket in self.late:
            del self.late[ticket]
            return True
        queue = self.waiting.get(ticket.seats)
        if queue is None or ticket not in queue:
            return False
        del queue[ticket]
        return True

    def catch_up(self, before: int | None = None) -> None:
        """Line up the late ones that came before a number, or all of them."""
        while self.late:
            ticket = next(iter(self.late))
            if before is not None and ticket.number > before:
                return
            del self.late[ticket]
            self.line_up(ticket)

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
        self._numbers = count(1)
        self.on_low: Callable[[str], None] = lambda _: None
        """Called with a function of which too few have tickets, while others are in the store."""
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
        lane, number = self._arrive(function_uid, scaling)
        if not always:
            self._check_room(lane, scaling)
        self._lanes[function_uid] = lane
        ticket = Ticket(self, lane, seats, number)
        lane.enter(ticket)
        self.queued += 1
        self._serve(lane)
        return ticket

    def take(self, function_uid: str, scaling: Scaling, seats: Seats) -> Ticket | None:
        """Take a place to run and a seat, if both are there and nobody waits for them."""
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        number = next(self._numbers)
        self._limit(lane, scaling, number)
        if lane.is_queue or not lane.room or self.running >= self._max_running:
            return None
        seat = seats.take()
        if seat is None:
            return None
        self._lanes[function_uid] = lane
        self.queued += 1  # for a moment
        ticket = Ticket(self, lane, seats, number, seat)
        self._run(ticket)
        return ticket

    def line_up(self, function_uid: str, scaling: Scaling) -> int | None:
        """Return the number of one that is to wait in the store, or raise ResourceExhaustedError.

        None: it can have a ticket. The number counts as stored; see `withdraw`.
        """
        lane, number = self._arrive(function_uid, scaling)
        if not lane.stored and lane.early < self._window(lane):
            return None
        self._check_room(lane, scaling)
        self.store(function_uid, scaling, number)
        return number

    def _arrive(self, function_uid: str, scaling: Scaling) -> tuple[Lane, int]:
        """Return the lane of one that comes, and its number."""
        lane = self._lanes.get(function_uid) or Lane(function_uid)
        number = next(self._numbers)
        self._limit(lane, scaling, number)
        return lane, number

    def _limit(self, lane: Lane, scaling: Scaling, number: int) -> None:
        """Let as many run as the revision of the latest says; those that wait come first."""
        if lane.limit(_most_running(scaling, self._max_running), number) and lane.is_queue:
            self._serve(lane)

    def resume(self, function_uid: str, scaling: Scaling) -> Ticket:
        """Take the place of what runs already: it has one, however many there are."""
        lane = self._lanes.setdefault(function_uid, Lane(function_uid))
        number = next(self._numbers)
        lane.limit(_most_running(scaling, self._max_running), number)
        ticket = Ticket(self, lane, ANYWHERE, number)
        ticket.covered.set()
        ticket.turn.set()
        lane.running.add(ticket)
        self.running += 1
        return ticket

    # -- those in the store ---------------------------------------------------------------------

    def numbers(self, first: int = 0, length: int = 1) -> int:
        """Take numbers that follow each other, from `first` on at least; return the first."""
        taken = max(next(self._numbers), first)
        self._numbers = count(taken + length)
        return taken

    def store(self, function_uid: str, scaling: Scaling, last: int, length: int = 1) -> None:
        """Count some as waiting in the store, the last of them with a number."""
        lane = self._lanes.setdefault(function_uid, Lane(function_uid))
        lane.limit(_most_running(scaling, self._max_running), last)
        lane.stored += length
        self.queued += length

    def withdraw(self, function_uid: str) -> None:
        """Count one less: it is not in the store, or was taken out of its turn."""
        lane = self._lanes[function_uid]
        lane.stored -= 1
        self.queued -= 1
        self._after_stored(lane)
        self._tidy(lane)

    def take_in(self, function_uid: str, number: int, scaling: Scaling, seats: Seats) -> Ticket:
        """Give a ticket to the first of those in the store."""
        lane = self._lanes[function_uid]
        lane.limit(_most_running(scaling, self._max_running), number)
        lane.stored -= 1
        ticket = Ticket(self, lane, seats, number)
        lane.catch_up(number)
        lane.line_up(ticket)
        self._after_stored(lane)
        return ticket

    def _after_stored(self, lane: Lane) -> None:
        if not lane.stored:
            lane.catch_up()
        self._serve(lane)

    def wanted(self, function_uid: str) -> int:
        """Return how many of those in the store are to get tickets now; 0 while few would."""
        lane = self._lanes.get(function_uid)
        if lane is None or not lane.stored:
            return 0
        missing = self._window(lane) - lane.early
        return min(missing, lane.stored) if missing > AHEAD // 2 else 0

    def look(self, function_uid: str) -> None:
        """Let those know who load, if one that is in the store by now is wanted here."""
        if self.wanted(function_uid):
            self.on_low(function_uid)

    def _window(self, lane: Lane) -> int:
        return max(min(lane.room, self._max_running - self.running), 0) + AHEAD

    # -- leaving and turns ----------------------------------------------------------------------

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
        elif lane.waiting or lane.stored:
            self._serve(lane)
        self._tidy(lane)

    def _tidy(self, lane: Lane) -> None:
        if lane.waiting:
            for seats in [seats for seats, queue in lane.waiting.items() if not queue]:
                del lane.waiting[seats]
        if not lane.running and not lane.is_queue:
            self._lanes.pop(lane.function_uid, None)

    def again(self, ticket: Ticket) -> None:
        """Let one that runs wait for another seat, before everybody else."""
        lane, seat = ticket.lane, ticket.seat
        was_full = self.running >= self._max_running
        lane.running.remove(ticket)
        self.running -= 1
        ticket.seat = None
        ticket.covered, ticket.turn = asyncio.Event(), asyncio.Event()
        lane.line_up(ticket, first=True)
        self.queued += 1
        if seat is not None:
            seat.leave()
        if was_full:
            self._serve_all()
        else:
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
            if lane.waiting or lane.stored:
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
        if lane.stored:
            self.look(lane.function_uid)

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
