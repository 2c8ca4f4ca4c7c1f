"""One instance: a container that is kept, from the decision to start it until it is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from skybridge_server.contracts.base import Conversation
from skybridge_server.errors import SkybridgeError
from skybridge_server.models.functions import Revision
from skybridge_server.models.instances import InstanceRecord, InstanceState
from skybridge_server.models.names import InstanceName, new_id
from skybridge_server.runtimes.base import Exit
from skybridge_server.services.pool.logs import InstanceLog
from skybridge_server.services.pool.marks import Facts, Left, Mark, unmarked

LONGEST_PAUSE = 60.0
"""Seconds at most between two tries to pause an instance that cannot be paused."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the container of an instance ended, or the error that kept us from seeing it."""

    exit: Exit | None = None
    error: SkybridgeError | None = None


class Owner(Protocol):
    """Who is told what happens to an instance."""

    function_uid: str
    revision: Revision

    def freed(self, instance: Instance) -> None:
        """Hear that an execution has left, and that it takes others."""
        ...

    def vacated(self) -> None:
        """Hear that one that was retired while it was busy is not busy any more."""
        ...

    def retired(self, instance: Instance) -> None:
        """Hear that it takes no more executions."""
        ...


class Instance:
    """A container that takes executions of one revision. For the event loop alone."""

    conversation: Conversation
    """How to speak to it; set once it is ready."""

    def __init__(self, revision: Revision, owner: Owner, name: str = "") -> None:
        self.name = InstanceName(revision.name.function.namespace, name or new_id())
        self.revision = revision
        self.container_id = ""
        self.create_time = datetime.now(UTC)
        self.start: timedelta | None = None
        """Of its container: creating and starting it."""
        self.init: timedelta | None = None
        """From the start of its process until it was ready."""
        self.state = InstanceState.STARTING
        self.running = 0
        self.executions = 0
        self.processes = 0
        """And threads, once it was ready; 0: unknown."""
        self.adopted = False
        """Whether an earlier process has started it."""
        self.stays = False
        """Whether it runs on when it is let go of, for a later process."""
        self.mark = unmarked()
        """What a later process finds of it."""
        self.used_at = 0.0
        """When it last became idle, by the clock of the loop."""
        self.last_used_time: datetime | None = None
        self.frozen = False
        """Whether it may be paused, so that it has to be let run before it is used."""
        self.polite = False
        """Whether its process is asked to end before it is killed."""
        self.log = InstanceLog()
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.thaw: Callable[[], Awaitable[None]]
        """Lets it run again when it is `frozen`; set once it is ready."""
        self.vacant = asyncio.Event()
        """Set once it takes no more executions and the last one has left."""
        self.deadline: asyncio.Timeout | None = None
        """Of its start, while that is under way."""
        self._owner = owner
        self._seats = revision.spec.scaling.instance_concurrency
        self._lasts = revision.spec.scaling.executions_per_instance
        """Executions that it may take in all; 0: no bound."""
        self._pause_failures = 0
        self._pause_again_at = 0.0

    @classmethod
    def of(cls, left: Left, mark: Mark, container_id: str, owner: Owner) -> Instance:
        """Return what an earlier process has left; it is not ready yet."""
        facts = left.facts
        instance = cls(owner.revision, owner, facts.instance)
        instance.container_id = container_id
        instance.create_time = facts.create_time
        instance.start, instance.init = facts.start, facts.init
        instance.executions, instance.processes = left.executions, facts.processes
        instance.mark, instance.adopted = mark, True
        return instance

    def facts(self) -> Facts:
        """Return what a later process has to know of it, once it is ready."""
        return Facts(
            instance=self.name.instance,
            function_uid=self._owner.function_uid,
            revision=self.revision.name.number,
            revision_time=self.revision.create_time,
            create_time=self.create_time,
            start=self.start or timedelta(0),
            init=self.init or timedelta(0),
            processes=self.processes,
        )

    # -- executions -----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether it has no free seat."""
        return self.running >= self._seats

    @property
    def worn(self) -> bool:
        """Whether it has taken as many executions as it may."""
        return bool(self._lasts) and self.executions >= self._lasts

    @property
    def fresh(self) -> bool:
        """Whether it was started for what runs on it."""
        return self.executions == 1 and not self.adopted

    def take(self) -> None:
        """Take an execution."""
        self.mark.busy()
        self.running += 1
        self.executions += 1
        if self.state is not InstanceState.STOPPING:
            self.state = InstanceState.BUSY

    def leave(self) -> None:
        """Let an execution leave: the seat is free again."""
        self.running -= 1
        if self.state is not InstanceState.STOPPING:
            self._owner.freed(self)
        elif not self.running and not self.vacant.is_set():
            self._owner.vacated()
            self.vacant.set()

    # -- its life -------------------------------------------------------------------------------

    def idle(self) -> None:
        """Note that it is ready and does nothing."""
        self.state = InstanceState.IDLE
        self.used_at = asyncio.get_running_loop().time()
        self.last_used_time = datetime.now(UTC)
        self._pause_failures, self._pause_again_at = 0, 0.0
        self.mark.idle(self.executions)

    def may_pause(self, now: float) -> bool:
        """Tell whether it can be tried to pause it, by the clock of the loop."""
        return self.state is InstanceState.IDLE and now >= self._pause_again_at

    def not_paused(self) -> None:
        """Note that it could not be paused; as long as it is idle, that is tried ever more seldom.

        Whether it runs is not certain: who asked may not have heard of what was done.
        """
        if self.state is InstanceState.PAUSED:
            self.state = InstanceState.IDLE
        self._pause_failures += 1
        wait = min(2.0**self._pause_failures, LONGEST_PAUSE)
        self._pause_again_at = asyncio.get_running_loop().time() + wait

    def let_go(self) -> None:
        """Let it run on for a later process, if it does nothing; else let it be removed."""
        doing_nothing = self.state in {InstanceState.IDLE, InstanceState.PAUSED}
        self.stays = doing_nothing and self.revision.spec.contract.kind.adoptable
        self.abandon()

    def retire(self, *, polite: bool = False) -> None:
        """Let it take no more executions; once the last has left, it is removed."""
        if self.state is InstanceState.STOPPING:
            return
        self.state = InstanceState.STOPPING
        self.polite = polite
        if not self.stays:
            self.mark.busy()
        self._owner.retired(self)
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time())
        if not self.running:
            self.vacant.set()

    def abandon(self) -> None:
        """Let it be removed, whatever runs on it."""
        self.retire()
        if not self.vacant.is_set():
            self._owner.vacated()
            self.vacant.set()

    def end(self, ended: Ended) -> None:
        """Note the end of its container."""
        if not self.ended.done():
            self.ended.set_result(ended)
        self.retire()

    def record(self) -> InstanceRecord:
        """Return it as it is seen from outside."""
        return InstanceRecord(
            name=self.name,
            revision=self.revision.name,
            state=self.state,
            container_id=self.container_id,
            running=self.running,
            executions=self.executions,
            create_time=self.create_time,
            init=self.init,
            last_used_time=self.last_used_time,
            log_tail=self.log.tail,
        )
