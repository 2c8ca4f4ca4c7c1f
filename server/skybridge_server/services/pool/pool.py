"""The pool: all instances of a server, within its budget, where they are needed most.

An instance is started when executions wait that no instance takes soon. Where the budget is full,
the instance that was idle longest makes room; where none is idle, functions without any instance
get the room of one that has had its turn. Who waits, waits in `services/slots.py`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Protocol

import structlog

from skybridge_server.errors import (
    FailedPreconditionError,
    NotFoundError,
    RuntimeUnavailableError,
    SkybridgeError,
)
from skybridge_server.models.functions import Revision
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.names import InstanceName, RevisionName
from skybridge_server.services.pool.beginning import begin
from skybridge_server.services.pool.budget import Budget, Cost
from skybridge_server.services.pool.fleet import Fleet
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.pool.marks import Left, Mark, Marks
from skybridge_server.services.slots import Slots
from skybridge_server.services.time_limit import seconds

MAX_STARTS = 4
"""Instances that start at once: more make an engine slower, not faster."""
TURN = 1.0
"""Seconds for which a function keeps its instances busy while another has none and waits."""
LOOK_INTERVAL = 0.25
"""Seconds between two looks for instances that are idle for too long."""
LONGEST_PAUSE = 60.0
"""Seconds at most between two tries to keep a minimum of instances that do not start."""
STOP_PATIENCE = 10.0
"""Seconds that a stop of the server waits for instances to be removed."""

_WORKING = (InstanceState.IDLE, InstanceState.BUSY)

log = structlog.get_logger(__name__)


class Launcher(Protocol):
    """Starts and removes instances. Its methods may be cancelled, and leave nothing behind."""

    marks: Marks
    """What an earlier process left, and what a later one will find."""

    async def start(self, instance: Instance) -> None:
        """Return once an instance takes executions. SkybridgeError: it never will.

        One that was adopted runs already, and is asked whether it still does.
        """
        ...

    async def remove(self, instance: Instance) -> None:
        """Remove what there is of an instance; never raises."""
        ...

    async def leave(self, instance: Instance) -> None:
        """Let go of an instance that runs on for a later process; never raises."""
        ...

    def ready(self, revision: Revision) -> bool:
        """Tell whether instances of a revision can be started now."""
        ...

    def pause(self, instance: Instance) -> None:
        """Freeze an idle instance, in the background, where its engine can."""
        ...

    def look(self, instance: Instance) -> None:
        """Retire an instance, in the background, whose executions leave too much behind."""
        ...


_Key = tuple[str, int, datetime]
"""Uid of a function, number and time of a revision: two deployments may try the same number."""


class Pool:
    """Starts instances, hands them to executions, and removes them. For the event loop alone."""

    def __init__(
        self, slots: Slots, launcher: Launcher, most: Cost, max_starts: int = MAX_STARTS
    ) -> None:
        """`max_starts`: instances that start at once."""
        self._slots = slots
        self._launcher = launcher
        self._budget = Budget(most)
        self._max_starts = max_starts
        self._fleets: dict[_Key, Fleet] = {}
        self._active: dict[str, int] = {}
        self._lacking: OrderedDict[Fleet, None] = OrderedDict()
        """Fleets that need instances, in the order of their turns."""
        self._starting = 0
        self._lives: dict[Instance, asyncio.Task[None]] = {}
        self._balancing: asyncio.Handle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._closing = False
        self.evictions = 0
        self.starts = 0

    # -- for executions -------------------------------------------------------------------------

    def seats(self, function_uid: str, revision: Revision) -> Fleet:
        """Return where the executions of a revision find seats."""
        self._active.setdefault(function_uid, revision.name.number)
        return self._fleet(function_uid, revision)

    async def adopt(
        self, function_uid: str, revision: Revision, left: Left, mark: Mark, container_id: str
    ) -> bool:
        """Take in an instance that an earlier process has left, and wait until it is ready.

        False: it is of no use, or there is no room for it.
        """
        fleet = self.seats(function_uid, revision)
        self._balance_soon()
        if self._closing or fleet.draining or fleet.full or not self._budget.fits(fleet.cost):
            mark.free()
            return False
        instance = Instance.of(left, mark, container_id, fleet)
        self._take_in(fleet, instance)
        while instance.state is InstanceState.STARTING:
            await fleet.changed.wait()
        return instance.state is not InstanceState.STOPPING

    # -- for deployments ------------------------------------------------------------------------

    async def warm(self, function_uid: str, revision: Revision) -> None:
        """Start what a revision is to have ahead, and wait until all of it is ready.

        FailedPreconditionError (reason INSTANCES_NOT_READY), with the end of what they wrote.
        """
        scaling, timeouts = revision.spec.scaling, revision.spec.timeouts
        if not (scaling.min_instances and revision.spec.contract.kind.warm):
            return
        fleet = self._fleet(function_uid, revision)
        fleet.draining = False
        fleet.minimum, fleet.urgent = scaling.min_instances, True
        self._balance_soon()
        limit = timeouts.queue + timeouts.start
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await _ready(fleet, scaling.min_instances)
        except TimeoutError as error:
            self._give_up(fleet)
            raise _not_ready(revision, f"there was no room for them in {seconds(limit)}") from error
        except SkybridgeError as error:
            self._give_up(fleet)
            raise _not_ready(revision, error.message) from error
        except BaseException:
            self._give_up(fleet)
            raise
        finally:
            fleet.urgent = False

    def dismiss(self, function_uid: str, revision: Revision) -> None:
        """Remove what was started ahead for a revision, unless it was activated."""
        number = revision.name.number
        fleet = self._fleets.get((function_uid, number, revision.create_time))
        if fleet is not None and self._active.get(function_uid) != number:
            self._give_up(fleet)

    def activate(self, function_uid: str, revision: Revision) -> None:
        """Let a revision be the one whose instances are kept; those of others drain."""
        self._active[function_uid] = revision.name.number
        if revision.spec.contract.kind.warm:
            fleet = self._fleet(function_uid, revision)
            fleet.minimum = revision.spec.scaling.min_instances
        self._drain_others(function_uid)

    def drain(self, function_uid: str) -> None:
        """Keep no instance of a function; those that run finish what they do."""
        self._active[function_uid] = 0
        self._drain_others(function_uid)

    def forget(self, function_uid: str) -> None:
        """Drain a function that exists no more."""
        self.drain(function_uid)
        del self._active[function_uid]

    # -- for everybody --------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Instance]:
        """Yield all instances, the oldest first."""
        return iter([*self._lives])

    def get(self, name: InstanceName) -> Instance:
        """Return an instance. NotFoundError."""
        for instance in self._lives:
            if instance.name == name:
                return instance
        raise NotFoundError("instance", str(name))

    def owns(self, instance: str) -> bool:
        """Tell whether the container of an instance, by its name, may still be needed."""
        return any(str(each.name) == instance for each in self._lives)

    async def close(self, *, leave: bool = False) -> None:
        """Remove all instances, or `leave` those that do nothing to a later process."""
        self._closing = True
        if self._looking is not None:
            self._looking.cancel()
        for instance in [*self._lives]:
            if leave:
                instance.let_go()
            else:
                instance.abandon()
        lives = [*self._lives.values()]
        if lives:
            await asyncio.wait(lives, timeout=STOP_PATIENCE)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    # -- for fleets -----------------------------------------------------------------------------

    def wanted(self, fleet: Fleet) -> None:
        """Hear that a fleet may need more instances, or fewer."""
        if fleet.lacks:
            self._lacking.setdefault(fleet)
        if self._lacking or fleet.draining:
            self._balance_soon()

    def must_yield(self) -> bool:
        """Tell whether an instance that was freed shall make room for another function."""
        if not self._lacking:
            return False
        starved = [f for f in self._lacking if f.starving_since is not None and f.lacks]
        if not starved:
            return False
        now = asyncio.get_running_loop().time()
        first = min(starved, key=lambda fleet: fleet.starving_since or now)
        return now - (first.starving_since or now) >= TURN and not self._budget.may_fit(first.cost)

    def draining(self, cost: Cost) -> None:
        """Hear that an instance will be removed once it is vacant."""
        self._budget.drain(cost)

    def leaving(self, cost: Cost, *, drained: bool) -> None:
        """Hear that an instance is removed now, perhaps one that was draining before."""
        self._budget.leave(cost, drained=drained)

    # -- who gets the room ----------------------------------------------------------------------

    def _balance_soon(self) -> None:
        """Balance once the slots have handed out what is free."""
        if self._balancing is None and not self._closing:
            self._balancing = asyncio.get_running_loop().call_soon(self._balance)

    def _balance(self) -> None:
        self._balancing = None
        if self._closing:
            return
        self._retire_drained()
        self._start_lacking()
        self._keep_minimum()
        for key in [key for key, fleet in self._fleets.items() if fleet.unused]:
            del self._fleets[key]
        if self._fleets and self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def _start_lacking(self) -> None:
        """Start an instance for each fleet in turn, and make room where there is none."""
        for fleet in [fleet for fleet in self._fleets.values() if self._needs(fleet)]:
            self._lacking.setdefault(fleet)
        for fleet in [fleet for fleet in self._lacking if not self._needs(fleet)]:
            fleet.starving_since = None
            del self._lacking[fleet]
        while self._lacking and self._starting < self._max_starts:
            fleet = next(iter(self._lacking))
            if not self._budget.fits(fleet.cost):
                self._make_room()
                return
            self._start(fleet)
            self._lacking.move_to_end(fleet)
            if not self._needs(fleet):
                del self._lacking[fleet]

    def _make_room(self) -> None:
        """Let idle instances go until those that are next will fit."""
        wanted = Cost()
        for fleet in islice(self._lacking, self._max_starts - self._starting):
            wanted += fleet.cost
            while not self._budget.will_fit(wanted):
                victim = self._longest_idle()
                if victim is None:
                    self._note_starving()
                    return
                victim.retire()
                self.evictions += 1

    def _note_starving(self) -> None:
        now = asyncio.get_running_loop().time()
        for fleet in self._lacking:
            if not fleet.alive and fleet.starving_since is None:
                fleet.starving_since = now

    def _longest_idle(self) -> Instance | None:
        """Return the idle instance that is missed least: beyond a minimum, then idle longest."""
        return min(
            (
                (fleet.alive <= fleet.minimum, instance.used_at, instance.name, instance)
                for fleet in self._fleets.values()
                if not fleet.waiting
                for instance in fleet.idle()
            ),
            default=(None,),
        )[-1]

    def _keep_minimum(self) -> None:
        """Start what is kept ahead, as far as there is room."""
        now = asyncio.get_running_loop().time()
        for fleet in self._fleets.values():
            while (
                fleet.below_minimum
                and not self._lacking
                and now >= fleet.retry_at
                and self._launcher.ready(fleet.revision)
                and self._starting < self._max_starts
                and self._budget.fits(fleet.cost)
            ):
                self._start(fleet)

    def _retire_drained(self) -> None:
        for fleet in self._fleets.values():
            if fleet.draining and not fleet.waiting:
                for instance in [*fleet.idle()]:
                    instance.retire(polite=True)

    # -- the life of an instance ----------------------------------------------------------------

    def _start(self, fleet: Fleet) -> None:
        self._starting += 1
        self.starts += 1
        self._take_in(fleet, Instance(fleet.revision, fleet))

    def _take_in(self, fleet: Fleet, instance: Instance) -> None:
        self._budget.take(fleet.cost)
        fleet.starving_since = None
        fleet.begin(instance)
        self._lives[instance] = asyncio.create_task(self._live(fleet, instance))

    async def _live(self, fleet: Fleet, instance: Instance) -> None:
        """Start an instance, wait until nobody needs it, remove it."""
        try:
            try:
                error = await begin(self._launcher.start, instance)
            finally:
                self._starting -= not instance.adopted
            if isinstance(error, RuntimeUnavailableError) and not fleet.urgent:
                fleet.interrupted()
                self._pause_after_failure(fleet)
            elif instance.state is InstanceState.STOPPING or error is not None:
                # Who waited for one that was left waits for another, which is started.
                fleet.failed(None if instance.adopted else error)
                self._pause_after_failure(fleet)
            else:
                fleet.ready(instance)
                self._slots.serve(fleet.function_uid)
                self._balance_soon()
                await instance.vacant.wait()
        finally:
            instance.abandon()
            try:
                if instance.stays:
                    await self._launcher.leave(instance)
                else:
                    await self._launcher.remove(instance)
            finally:
                del self._lives[instance]
                fleet.removed(instance)
                self._budget.give_back(fleet.cost)
                self._balance_soon()

    def _pause_after_failure(self, fleet: Fleet) -> None:
        pause = min(2.0**fleet.failures, LONGEST_PAUSE)
        fleet.retry_at = asyncio.get_running_loop().time() + pause

    async def _look(self) -> None:
        """Go over the instances now and then, for as long as there are any, or shall be."""
        while self._fleets:
            await asyncio.sleep(LOOK_INTERVAL)
            now = asyncio.get_running_loop().time()
            for fleet in [*self._fleets.values()]:
                self._look_at(fleet, now)
            self._balance_soon()
        self._looking = None

    def _look_at(self, fleet: Fleet, now: float) -> None:
        spec = fleet.revision.spec
        idle_limit = spec.timeouts.idle.total_seconds()
        pause_after = spec.scaling.pause_after.total_seconds()
        for instance in fleet.instances:
            if instance.state in _WORKING:
                self._launcher.look(instance)
        for instance in [*fleet.idle()]:
            idle = now - instance.used_at
            if idle >= idle_limit and fleet.alive > fleet.minimum:
                instance.retire(polite=True)
            elif 0 < pause_after <= idle and instance.may_pause(now):
                self._launcher.pause(instance)

    # -- inside ---------------------------------------------------------------------------------

    def _fleet(self, function_uid: str, revision: Revision) -> Fleet:
        number = revision.name.number
        key = (function_uid, number, revision.create_time)
        fleet = self._fleets.get(key)
        if fleet is None:
            most = self._budget.most.instances
            fleet = self._fleets[key] = Fleet(function_uid, revision, self, most)
            fleet.draining = self._active.get(function_uid, number) != number
        return fleet

    def _drain_others(self, function_uid: str) -> None:
        active = self._active[function_uid]
        for (uid, number, _), fleet in self._fleets.items():
            if uid == function_uid:
                fleet.draining = number != active
                if fleet.draining:
                    fleet.minimum = 0
        self._balance_soon()

    def _needs(self, fleet: Fleet) -> bool:
        """Tell whether somebody waits for an instance that can be started."""
        wanted = fleet.lacks or (fleet.urgent and fleet.below_minimum)
        return wanted and not fleet.rests and self._launcher.ready(fleet.revision)

    def _give_up(self, fleet: Fleet) -> None:
        """Remove what was started ahead for a deployment that failed."""
        fleet.minimum, fleet.draining = 0, True
        for instance in [*fleet.instances]:
            instance.retire()


async def _ready(fleet: Fleet, count: int) -> None:
    """Wait until so many instances are ready; raises why one is not."""
    fleet.last_error = None
    while fleet.alive - fleet.starting < count:
        await fleet.changed.wait()
        if fleet.last_error is not None:
            raise fleet.last_error


def _not_ready(revision: Revision, why: str) -> FailedPreconditionError:
    name: RevisionName = revision.name
    return FailedPreconditionError(
        f"revision {name.number} was not activated, its instances did not get ready: {why}",
        reason="INSTANCES_NOT_READY",
    )
