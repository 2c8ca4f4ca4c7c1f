"""Places to run and to wait: bounded, fair, first come first served, never lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from skybridge_server.errors import ResourceExhaustedError
from skybridge_server.models.functions import Scaling
from skybridge_server.services.slots import AHEAD, ANYWHERE, Slots, Ticket

ONE = Scaling(max_concurrency=1)


def runs(ticket: Ticket) -> bool:
    return ticket.turn.is_set()


def test_functions_take_turns() -> None:
    slots = Slots(1, 100)
    busy = slots.enter("busy", Scaling())
    flood = [slots.enter("a", Scaling()) for _ in range(3)]
    late = slots.enter("b", Scaling())

    order = []
    current = busy
    for _ in range(4):
        current.release()
        current = next(each for each in [*flood, late] if runs(each) and each not in order)
        order.append(current)

    assert order == [flood[0], late, flood[1], flood[2]]


def test_within_a_function_the_first_come_runs_first() -> None:
    slots = Slots(10, 100)
    tickets = [slots.enter("f", ONE) for _ in range(4)]
    for index, ticket in enumerate(tickets):
        assert [runs(each) for each in tickets] == [i <= index for i in range(4)]
        ticket.release()


def test_a_full_function_leaves_the_others_their_places() -> None:
    slots = Slots(2, 100)
    slots.enter("f", ONE)
    waits = slots.enter("f", ONE)
    other = slots.enter("g", ONE)
    assert not runs(waits)
    assert runs(other)


async def test_acquire_waits_for_the_turn() -> None:
    slots = Slots(1, 1)
    first = slots.enter("f", Scaling())
    await first.acquire()
    second = slots.enter("f", Scaling())
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    await waiting
    assert (slots.running, slots.queued) == (1, 0)


async def test_who_gives_up_while_it_waits_leaves_nothing_behind() -> None:
    slots = Slots(1, 100)
    first = slots.enter("f", Scaling())
    impatient = slots.enter("f", Scaling())
    patient = slots.enter("f", Scaling())
    waiting = asyncio.create_task(impatient.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    impatient.release()

    assert slots.queued == 1
    first.release()
    assert runs(patient)
    assert not runs(impatient)


def test_releasing_twice_does_no_harm() -> None:
    slots = Slots(1, 100)
    first, second, third = (slots.enter("f", Scaling()) for _ in range(3))
    first.release()
    first.release()
    assert runs(second)
    assert not runs(third)
    third.release()
    third.release()
    assert (slots.running, slots.queued) == (1, 0)


class OneSeat:
    """A seat at a time, for as many as there are."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.given_back = 0

    def take(self) -> OneSeat | None:
        self.left -= 1
        return self if self.left >= 0 else None

    def leave(self) -> None:
        self.given_back += 1

    def asked(self, waiting: object, room: int) -> None:
        """Nothing can be done."""


def test_whose_seat_was_of_no_use_gets_the_next() -> None:
    slots, seats = Slots(10, 10), OneSeat(1)
    first, second = (slots.enter("f", Scaling(), seats) for _ in range(2))
    assert runs(first)
    first.again()
    assert not runs(first)
    assert (slots.running, slots.queued, seats.given_back) == (0, 2, 1)
    seats.left = 1
    slots.serve("f")
    assert runs(first)
    assert not runs(second)
    first.release()
    second.release()
    assert (slots.running, slots.queued, seats.given_back) == (0, 0, 2)


def test_the_queue_of_a_function_is_bounded() -> None:
    slots = Slots(10, 100)
    scaling = Scaling(max_concurrency=1, max_queue_depth=2)
    for _ in range(3):
        slots.enter("f", scaling)
    with pytest.raises(
        ResourceExhaustedError, match="1 executions of the function run and 2 wait"
    ) as refused:
        slots.enter("f", scaling)
    assert refused.value.reason == "FUNCTION_QUEUE_FULL"
    assert refused.value.subject == "spec.scaling.max_queue_depth"
    assert refused.value.retry_after.total_seconds() > 0
    assert runs(slots.enter("g", scaling))


def test_the_queue_of_a_function_is_bounded_also_where_others_take_all_places() -> None:
    slots = Slots(4, 100)
    for _ in range(4):
        slots.enter("others", Scaling())
    scaling = Scaling(max_concurrency=2, max_queue_depth=2)
    for _ in range(2):
        slots.enter("f", scaling)
    with pytest.raises(ResourceExhaustedError):
        slots.enter("f", scaling)


def test_the_queue_of_the_server_is_bounded() -> None:
    slots = Slots(1, 2)
    for function in ("a", "b", "c"):
        slots.enter(function, Scaling())
    with pytest.raises(ResourceExhaustedError, match="2 executions wait on this server") as refused:
        slots.enter("d", Scaling())
    assert refused.value.reason == "SERVER_QUEUE_FULL"
    assert refused.value.subject == "FAAS_MAX_QUEUED_EXECUTIONS"


def test_nobody_has_to_wait_where_waiting_is_not_allowed() -> None:
    slots = Slots(1, 0)
    scaling = Scaling(max_queue_depth=0)
    ticket = slots.enter("f", scaling)
    with pytest.raises(ResourceExhaustedError):
        slots.enter("f", scaling)
    ticket.release()
    assert runs(slots.enter("f", scaling))


def test_what_was_accepted_before_always_gets_in() -> None:
    slots = Slots(1, 0)
    scaling = Scaling(max_queue_depth=0)
    tickets = [slots.enter("f", scaling, always=True) for _ in range(3)]
    assert [runs(each) for each in tickets] == [True, False, False]


def test_a_new_revision_opens_places_for_those_that_wait() -> None:
    slots = Slots(10, 100)
    slots.enter("f", ONE)
    waits = slots.enter("f", ONE)
    new = slots.enter("f", Scaling(max_concurrency=3))
    assert runs(waits)
    assert runs(new)


def test_a_new_revision_opens_them_also_where_a_seat_is_asked_for() -> None:
    slots, seats = Slots(10, 100), OneSeat(3)
    slots.enter("f", ONE, seats)
    waits = slots.enter("f", ONE, seats)
    new = slots.take("f", Scaling(max_concurrency=3), seats)
    assert runs(waits)
    assert new is not None


def test_who_waits_for_another_seat_leaves_its_place_to_other_functions() -> None:
    slots, seats = Slots(1, 10), OneSeat(1)
    first = slots.enter("f", Scaling(), seats)
    other = slots.enter("g", Scaling())
    first.again()
    assert runs(other)
    assert not runs(first)


class SlotsMachine(RuleBasedStateMachine):
    """Against a model that knows only who entered in which order, and the limits."""

    MAX_RUNNING, MAX_QUEUED, DEPTH = 3, 4, 3
    CONCURRENCY = {"a": 1, "b": 2, "c": 0}  # noqa: RUF012

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(self.MAX_RUNNING, self.MAX_QUEUED)
        self.held: dict[Ticket, str] = {}

    def limit(self, function: str) -> int:
        return self.CONCURRENCY[function] or self.MAX_RUNNING

    def split(self) -> tuple[dict[str, list[Ticket]], dict[str, list[Ticket]]]:
        running: dict[str, list[Ticket]] = defaultdict(list)
        waiting: dict[str, list[Ticket]] = defaultdict(list)
        for ticket, function in self.held.items():
            (running if runs(ticket) else waiting)[function].append(ticket)
        return running, waiting

    @rule(target=tickets, function=st.sampled_from("abc"))
    def enter(self, function: str) -> object:
        running, waiting = self.split()
        free = sum(map(len, running.values())) < self.MAX_RUNNING and len(
            running[function]
        ) < self.limit(function)
        full = (
            len(waiting[function]) >= self.DEPTH
            or sum(map(len, waiting.values())) >= self.MAX_QUEUED
        )
        scaling = Scaling(self.CONCURRENCY[function], self.DEPTH)
        if not free and full:
            with pytest.raises(ResourceExhaustedError):
                self.slots.enter(function, scaling)
            return multiple()
        ticket = self.slots.enter(function, scaling)
        assert runs(ticket) is free
        self.held[ticket] = function
        return ticket

    @rule(ticket=consumes(tickets), times=st.integers(1, 2))
    def leave(self, ticket: Ticket, times: int) -> None:
        del self.held[ticket]
        for _ in range(times):
            ticket.release()

    @invariant()
    def limits_hold_and_no_place_is_wasted(self) -> None:
        running, waiting = self.split()
        total = sum(map(len, running.values()))
        assert (self.slots.running, self.slots.queued) == (total, len(self.held) - total)
        assert total <= self.MAX_RUNNING
        for function, queue in waiting.items():
            assert len(running[function]) <= self.limit(function)
            open_here = len(running[function]) < self.limit(function)
            assert not queue or total == self.MAX_RUNNING or not open_here

    @invariant()
    def the_first_come_runs_first(self) -> None:
        for function in "abc":
            mine = [runs(ticket) for ticket, name in self.held.items() if name == function]
            assert mine == sorted(mine, reverse=True)

    def teardown(self) -> None:
        for ticket in self.held:
            ticket.release()
        assert (self.slots.running, self.slots.queued) == (0, 0)
        assert not self.slots._lanes


SlotsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSlotsMachine = SlotsMachine.TestCase


BUSY = Scaling(max_concurrency=1, max_queue_depth=1000)


class Queue:
    """One function whose executions wait in a store, and are loaded when they are wanted."""

    def __init__(self) -> None:
        self.slots = Slots(5, 1000)
        self.slots.on_low = self.load
        self.stored: list[int] = []
        self.order: list[Ticket] = []

    def start(self) -> None:
        """Come, for nobody who waits."""
        number = self.slots.line_up("f", BUSY)
        if number is None:
            self.order.append(self.slots.enter("f", BUSY))
        else:
            self.stored.append(number)
            self.slots.look("f")

    def load(self, function_uid: str) -> None:
        for _ in range(self.slots.wanted(function_uid)):
            number = self.stored.pop(0)
            self.order.append(self.slots.take_in(function_uid, number, BUSY, ANYWHERE))

    def next(self) -> int:
        """End the one that runs, and return its number."""
        (running,) = [ticket for ticket in self.order if runs(ticket)]
        self.order.remove(running)
        running.release()
        return running.number


def test_those_in_the_store_and_those_in_memory_run_in_the_order_they_came() -> None:
    queue = Queue()
    for number in range(5 * AHEAD):
        if number % 7 == 3:  # a caller who waits for the answer
            queue.order.append(queue.slots.enter("f", BUSY))
        else:
            queue.start()
    assert queue.slots.queued == 5 * AHEAD - 1
    ran = [queue.next() for _ in range(5 * AHEAD)]
    assert ran == sorted(ran)
    assert (queue.slots.running, queue.slots.queued) == (0, 0)
    assert not queue.slots._lanes


def test_one_that_is_withdrawn_holds_up_nobody() -> None:
    queue = Queue()
    for _ in range(AHEAD + 1):
        queue.start()
    assert queue.slots.line_up("f", BUSY) is not None
    late = queue.slots.enter("f", BUSY)
    queue.order.append(late)
    queue.slots.withdraw("f")
    ran = [queue.next() for _ in range(AHEAD + 2)]
    assert ran[-1] == late.number
    assert not queue.slots._lanes


def test_numbers_go_on_behind_those_in_the_store() -> None:
    slots = Slots(1, 100)
    assert slots.numbers(1000) == 1000
    assert slots.numbers(length=10) == 1001
    assert slots.enter("f", ONE).number == 1011


def test_the_last_that_came_says_how_many_may_run() -> None:
    slots = Slots(10, 100)
    slots.enter("f", Scaling(max_concurrency=2))
    number = slots.numbers()
    slots.enter("f", Scaling(max_concurrency=3))
    slots.store("f", ONE, number)
    slots.take_in("f", number, ONE, ANYWHERE)
    assert slots.running == 3
