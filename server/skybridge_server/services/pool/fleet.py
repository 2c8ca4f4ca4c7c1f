"""The instances of one revision: seats for executions, and how many more are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from skybridge_server.errors import SkybridgeError
from skybridge_server.models.functions import Reuse, Revision
from skybridge_server.models.instances import InstanceState
from skybridge_server.services.bell import Bell
from skybridge_server.services.pool.budget import Cost, cost_of
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.slots import Ticket

INTERRUPTED_PAUSE = 1.0
"""Seconds in which it is noticed that an engine does not answer."""


class Keeper(Protocol):
    """Who decides over all fleets."""

    def wanted(self, fleet: Fleet) -> None:
        """Hear that a fleet may need more instances, or fewer."""
        ...

    def must_yield(self) -> bool:
        """Tell whether an instance that was freed shall make room for another function."""
        ...

    def draining(self, cost: Cost) -> None:
        """Hear that an instance will be removed once it is vacant."""
        ...

    def leaving(self, cost: Cost, *, drained: bool) -> None:
        """Hear that an instance is removed now, perhaps one that was draining before."""
        ...


class Fleet:
    """Keeps the instances of one revision in order. For the event loop alone."""

    def __init__(self, function_uid: str, revision: Revision, keeper: Keeper, most: int) -> None:
        """`most`: instances that the server allows."""
        self.function_uid = function_uid
        self.revision = revision
        self.cost = cost_of(revision.spec.resources)
        self.instances: dict[Instance, None] = {}
        """All that have not been removed."""
        self.starting = 0
        self.minimum = 0
        self.draining = False
        """Whether the revision is not the active one any more."""
        self.urgent = False
        """Whether the minimum is waited for, and may take the room of idle instances."""
        self.failures = 0
        """Starts that failed one after the other."""
        self.last_error: SkybridgeError | None = None
        self.changed = Bell()
        self.starving_since: float | None = None
        """Since when it has waited for room without a single instance."""
        self.retry_at = 0.0
        """When the minimum may be tried again."""
        self.rests_until = 0.0
        """When an instance may be started again, after an engine went away."""
        self._scaling = revision.spec.scaling
        self._most = min(self._scaling.max_instances or most, most)
        self._keeper = keeper
        self._open: dict[Instance, None] = {}
        """Ready, with a free seat; the one used last stands last."""
        self._waiting: Mapping[Ticket, None] = {}
        self._room = 0

    # -- seats, for slots -----------------------------------------------------------------------

    def take(self) -> Instance | None:
        """Return a seat on the instance that was used last, so that others can become idle."""
        if not self._open:
            return None
        instance = next(reversed(self._open))
        instance.take()
        if instance.worn:
            instance.retire(polite=self._scaling.reuse is Reuse.ALLOWED)
        elif instance.full:
            del self._open[instance]
        return instance

    def asked(self, waiting: Mapping[Ticket, None], room: int) -> None:
        """Hear who waits for a seat, and how many of them could run with one."""
        self._waiting = waiting
        self._room = room
        if waiting or self.draining:
            self._keeper.wanted(self)

    # -- what happens to instances --------------------------------------------------------------

    def freed(self, instance: Instance) -> None:
        """Take a seat back."""
        if self._keeper.must_yield():
            instance.retire()
            return
        if not instance.running:
            instance.idle()
        self._open.pop(instance, None)
        self._open[instance] = None
        self._keeper.wanted(self)

    def retired(self, instance: Instance) -> None:
        """Give no more seats on an instance."""
        self._open.pop(instance, None)
        if instance.running:
            self._keeper.draining(self.cost)
        else:
            self._keeper.leaving(self.cost, drained=False)
        self._keeper.wanted(self)

    def vacated(self) -> None:
        """Let go of an instance that was retired while it was busy."""
        self._keeper.leaving(self.cost, drained=True)

    def begin(self, instance: Instance) -> None:
        """Take in an instance that is being started, for the first of those that wait."""
        self.instances[instance] = None
        self.starting += 1
        self.cover()

    def ready(self, instance: Instance) -> None:
        """Give seats on an instance that was started."""
        self.starting -= 1
        self.failures = 0
        instance.idle()
        self._open[instance] = None
        self.changed.ring()

    def failed(self, error: SkybridgeError | None) -> None:
        """Let those fail that waited for an instance; without an error, another is started."""
        self.starting -= 1
        if error is not None:
            self.failures += 1
            self.last_error = error
            for ticket in [*islice(self._waiting, self._scaling.instance_concurrency)]:
                ticket.fail(error)
        self.changed.ring()

    def interrupted(self) -> None:
        """Let those who waited for an instance go on waiting: its engine went away."""
        self.starting -= 1
        self.rests_until = asyncio.get_running_loop().time() + INTERRUPTED_PAUSE
        self.changed.ring()

    def removed(self, instance: Instance) -> None:
        """Forget an instance that is no more."""
        del self.instances[instance]
        self.changed.ring()

    def cover(self) -> None:
        """Tell those who wait that a seat is being made for them."""
        seats = self.starting * self._scaling.instance_concurrency
        for ticket in islice(self._waiting, seats):
            ticket.covered.set()

    # -- what is needed -------------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """How many instances start, or take executions."""
        return sum(each.state is not InstanceState.STOPPING for each in self.instances)

    @property
    def waiting(self) -> bool:
        """Whether executions wait for a seat that could run with one."""
        return bool(self._waiting) and self._room > 0

    @property
    def full(self) -> bool:
        """Whether it has as many instances as it may."""
        return len(self.instances) >= self._most

    @property
    def lacks(self) -> bool:
        """Whether those who wait are more than the seats that are being made."""
        if not self._waiting:
            return False
        seats = self.starting * self._scaling.instance_concurrency
        return min(len(self._waiting), self._room) > seats and not self.full

    @property
    def below_minimum(self) -> bool:
        return self.alive < self.minimum and not self.full

    @property
    def rests(self) -> bool:
        """Whether it is too early to look whether its engine is back."""
        return asyncio.get_running_loop().time() < self.rests_until

    @property
    def unused(self) -> bool:
        """Whether nothing is left of it."""
        return not (self.instances or self._waiting or self.minimum)

    def idle(self) -> Iterator[Instance]:
        """Yield the instances without an execution, the one used last at the end."""
        for instance in self._open:
            if not instance.running:
                yield instance
