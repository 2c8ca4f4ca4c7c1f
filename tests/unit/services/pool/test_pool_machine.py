"""The pool under any order of events: its promises hold after each, and nothing is left at the end.

Never more instances than the budget, never another revision's, never more executions on one than
it takes, nobody waits for ever, and what is idle for too long goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from skybridge_server.errors import InitError
from skybridge_server.models.functions import MIB, Reuse, Revision
from skybridge_server.models.instances import InstanceState
from skybridge_server.services.pool.budget import Cost
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.slots import Ticket
from tests.support.virtual_time import VirtualTimeLoop
from tests.unit.services.pool.kit import Kit, dies, revision, uid_of
from tests.unit.services.world import until

BUDGET = 3
SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide": {"instance_concurrency": 2},
    "once": {"reuse": Reuse.NEVER},
    "kept": {"min_instances": 1},
    "narrow": {"max_instances": 1, "max_executions_per_instance": 2},
}
REVISIONS = {
    (name, number): revision(name, number, **spec)
    for name, spec in SPECS.items()
    for number in (1, 2)
}
NAMES = st.sampled_from([*SPECS])
NUMBERS = st.sampled_from((1, 2))


class PoolMachine(RuleBasedStateMachine):
    """Executions come, run, leave and give up; instances fail and die; revisions change."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.held: dict[Ticket, Revision] = {}
        self.do(self._open())

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    async def _open(self) -> None:
        most = Cost(BUDGET, BUDGET * 128 * MIB, BUDGET * 1000)
        self.kit = Kit(most, max_starts=2, max_running=4)

    @rule(target=tickets, name=NAMES, number=NUMBERS)
    def enter(self, name: str, number: int) -> Ticket:
        of = REVISIONS[name, number]
        made: list[Ticket] = []

        async def work() -> None:
            made.append(self.kit.enter(of))

        self.do(work())
        self.held[made[0]] = of
        return made[0]

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        async def work() -> None:
            ticket.release()

        self.do(work())
        del self.held[ticket]

    @rule(length=st.sampled_from((0.0, 0.35, 2.0, 400.0)))
    def time_passes(self, length: float) -> None:
        self.do(asyncio.sleep(length))

    @rule()
    def the_next_start_fails(self) -> None:
        self.kit.launcher.failures = [InitError("it fails")]

    @rule(which=st.integers(0, BUDGET - 1), code=st.sampled_from((0, 137)))
    def a_container_ends(self, which: int, code: int) -> None:
        async def work() -> None:
            alive = [*self.kit.pool]
            if which < len(alive):
                dies(alive[which], code)

        self.do(work())

    @rule(name=NAMES, number=NUMBERS)
    def a_revision_is_activated(self, name: str, number: int) -> None:
        async def work() -> None:
            of = REVISIONS[name, number]
            self.kit.pool.activate(uid_of(of), of)

        self.do(work())

    @rule(name=NAMES)
    def a_function_is_disabled(self, name: str) -> None:
        async def work() -> None:
            self.kit.pool.drain(f"uid-{name}")

        self.do(work())

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.kit.launcher.most_present <= BUDGET
        assert len([*self.kit.pool]) <= BUDGET
        assert self.kit.launcher.most_starting <= 2

    @invariant()
    def seats_are_on_instances_of_the_right_revision(self) -> None:
        seats: dict[Instance, int] = {}
        for ticket, of in self.held.items():
            if isinstance(ticket.seat, Instance):
                assert ticket.seat.revision is of
                seats[ticket.seat] = seats.get(ticket.seat, 0) + 1
        for instance, count in seats.items():
            assert count == instance.running
            assert count <= instance.revision.spec.scaling.instance_concurrency

    def teardown(self) -> None:
        try:
            self.do(self._end())
        finally:
            self.runner.close()

    async def _end(self) -> None:
        """Everybody who waits gets a turn as soon as the others leave; then all of it goes."""
        kit = self.kit
        while self.held:
            await until(lambda: any(ticket.turn.is_set() for ticket in self.held))
            for ticket in [each for each in self.held if each.turn.is_set()]:
                ticket.release()
                del self.held[ticket]
        assert (kit.slots.running, kit.slots.queued) == (0, 0)
        for name in SPECS:
            kit.pool.forget(f"uid-{name}")
        await until(lambda: not kit.launcher.present and not kit.pool._fleets)
        assert kit.pool._budget.taken == kit.pool._budget.leaving == Cost()
        assert not kit.slots._lanes
        await kit.pool.close()
        assert not [each for each in kit.pool if each.state is not InstanceState.STOPPING]


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPoolMachine = PoolMachine.TestCase
