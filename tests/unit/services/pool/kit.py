"""A pool whose instances are made of nothing, and what a test does with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from skybridge_server.errors import SkybridgeError
from skybridge_server.models.functions import (
    MIB,
    Contract,
    ContractKind,
    FunctionSpec,
    Resources,
    Revision,
    Scaling,
    Timeouts,
)
from skybridge_server.models.instances import InstanceState
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.runtimes.base import Exit
from skybridge_server.services.pool.budget import Cost
from skybridge_server.services.pool.instances import Ended, Instance
from skybridge_server.services.pool.marks import Marks
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.slots import Slots, Ticket

ROOMY = Cost(instances=100, memory_bytes=100 * 128 * MIB, cpu_millis=100_000)


def revision(
    function: str = "f",
    number: int = 1,
    *,
    timeouts: Timeouts | None = None,
    resources: Resources | None = None,
    **scaling: Any,
) -> Revision:
    """Return a revision of a function with the contract HTTP."""
    return Revision(
        name=RevisionName(FunctionName("default", function), number),
        spec=FunctionSpec(
            image="image",
            contract=Contract(ContractKind.HTTP),
            scaling=Scaling(**scaling),
            timeouts=timeouts or Timeouts(),
            resources=resources or Resources(),
        ),
        image_id="sha256:1",
        image_digest="",
        platform="linux/amd64",
        image_bytes=1,
        generation=1,
        create_time=datetime.now(UTC),
    )


class FakeLauncher:
    """Starts instances out of nothing; a test may hold starts and removals, or let them fail."""

    def __init__(self) -> None:
        self.marks = Marks.none()
        self.present: set[Instance] = set()
        self.started: list[Instance] = []
        self.most_present = 0
        self.most_starting = 0
        self.paused: list[Instance] = []
        self.left: list[Instance] = []
        self.looked_at: set[Instance] = set()
        self.failures: list[SkybridgeError] = []
        """The next starts fail with these."""
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.answers = True
        self._starting = 0

    async def start(self, instance: Instance) -> None:
        self.present.add(instance)
        self.started.append(instance)
        self._starting += 1
        self.most_present = max(self.most_present, len(self.present))
        self.most_starting = max(self.most_starting, self._starting)
        try:
            await asyncio.sleep(0.3)
            await self.may_start.wait()
        finally:
            self._starting -= 1
        if self.failures:
            raise self.failures.pop(0)

    async def remove(self, instance: Instance) -> None:
        await self.may_remove.wait()
        await asyncio.sleep(0.1)
        self.present.discard(instance)

    async def leave(self, instance: Instance) -> None:
        self.left.append(instance)
        self.present.discard(instance)

    def ready(self, revision: Revision) -> bool:
        return self.answers

    def pause(self, instance: Instance) -> None:
        instance.state = InstanceState.PAUSED
        self.paused.append(instance)

    def look(self, instance: Instance) -> None:
        self.looked_at.add(instance)


@dataclass
class Kit:
    """A pool, its slots and its launcher."""

    most: Cost = ROOMY
    max_starts: int = 4
    max_running: int = 100
    slots: Slots = field(init=False)
    launcher: FakeLauncher = field(default_factory=FakeLauncher)
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.slots = Slots(self.max_running, 10_000)
        self.pool = Pool(self.slots, self.launcher, self.most, self.max_starts)

    def enter(self, of: Revision) -> Ticket:
        """Let an execution come."""
        uid = uid_of(of)
        return self.slots.enter(uid, of.spec.scaling, self.pool.seats(uid, of))

    async def seated(self, ticket: Ticket) -> Instance:
        """Wait for the instance of an execution."""
        async with asyncio.timeout(3600):
            await ticket.acquire()
        assert isinstance(ticket.seat, Instance)
        return ticket.seat

    async def run(self, of: Revision) -> Instance:
        """Let an execution come, run and leave."""
        ticket = self.enter(of)
        try:
            return await self.seated(ticket)
        finally:
            ticket.release()

    def states(self) -> dict[str, int]:
        """Return how many instances are in each state."""
        found: dict[str, int] = {}
        for instance in self.pool:
            found[instance.state.name] = found.get(instance.state.name, 0) + 1
        return found


def uid_of(of: Revision) -> str:
    return f"uid-{of.name.function.function}"


def dies(instance: Instance, code: int = 137) -> None:
    """Let the container of an instance end."""
    instance.end(Ended(Exit(code, oom_killed=False)))
