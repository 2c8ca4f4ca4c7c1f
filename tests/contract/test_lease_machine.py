"""The queue and its leases as a state machine, against the real database.

Servers that know nothing of each other accept, claim, write, settle, give back and crash, in any
order. The model knows who may do what; the store must agree, and no event may be lost or doubled.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from skybridge_server.errors import LeaseLostError
from skybridge_server.models.executions import Execution, ExecutionState, Lease
from skybridge_server.models.journal import Event, EventBody, Output, OutputStream, Result
from skybridge_server.models.journal import StateChange as Change
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.models.paging import ExecutionQuery, PageRequest
from skybridge_server.repositories.store import SqliteRepositories

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(minutes=10)
SERVERS = st.sampled_from(["a", "b", "c"])
S = ExecutionState


@dataclass
class Known:
    """What the model knows of an execution."""

    stored: Execution
    journal: list[Event] = field(default_factory=list)


class Leases(RuleBasedStateMachine):
    """Each `view` is what some process last read or wrote: it may be stale."""

    views = Bundle("views")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.now = BEGIN
        self.known: dict[ExecutionName, Known] = {}
        self.arrived = 0
        self.store: SqliteRepositories

    @initialize()
    def open(self) -> None:
        self.store = self.run(SqliteRepositories.open(Path(self.folder.name) / "skybridge.db"))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()

    # -- what servers do ------------------------------------------------------------------------

    @rule(target=views)
    def accept(self) -> Execution:
        name = ExecutionName("default", new_id())
        function = FunctionName("default", "f")
        self.arrived += 1
        queued = Execution(
            name, function, "uid", 1, self.now, last_sequence=1, position=self.arrived
        )
        events = [Event(1, self.now, Change(S.QUEUED))]
        self.run(self.store.executions.add(queued, b"", events))
        self.known[name] = Known(queued, events)
        return queued

    @rule(target=views, view=views)
    def read(self, view: Execution) -> Execution:
        found = self.run(self.store.executions.get(view.name))
        assert found == self.known[view.name].stored
        return found  # type: ignore[no-any-return]

    @rule(target=views, view=views, server=SERVERS)
    def claim(self, view: Execution, server: str) -> Any:
        if view.state is not S.QUEUED:
            return multiple()
        lease = Lease(view.lease.epoch + 1, server, self.now + LEASE)
        return self.write(view, replace(view, state=S.STARTING, lease=lease), Change(S.STARTING))

    @rule(target=views, server=SERVERS, count=st.integers(1, 3))
    def claim_first(self, server: str, count: int) -> Any:
        """Take the first of those that wait and that nobody has taken."""
        free = [
            known.stored
            for known in self.known.values()
            if known.stored.state is S.QUEUED and not known.stored.lease.owner
        ]
        expected = sorted(free, key=lambda each: each.position or 0)[:count]
        until = self.now + LEASE
        claimed = self.run(self.store.waiting.claim_first("uid", count, server, until))
        taken = [
            replace(each, lease=Lease(each.lease.epoch + 1, server, until)) for each in expected
        ]
        assert claimed == taken
        for each in taken:
            self.known[each.name].stored = each
        return multiple(*taken)

    @rule(target=views, view=consumes(views), data=st.binary(min_size=1, max_size=5))
    def print(self, view: Execution, data: bytes) -> Any:
        if not view.lease.owner:
            return view
        offset = view.stdout_bytes
        printed = replace(view, stdout_bytes=offset + len(data))
        return self.write(view, printed, Output(OutputStream.STDOUT, offset, data))

    @rule(target=views, view=views, state=st.sampled_from([S.SUCCEEDED, S.FAILED, S.CANCELLED]))
    def settle(self, view: Execution, state: S) -> Any:
        """Also by a process that lost its lease long ago."""
        ended = replace(view, state=state, lease=Lease(view.lease.epoch))
        return self.write(view, ended, Result(ended))

    @rule(target=views, view=views)
    def give_back(self, view: Execution) -> Any:
        if not view.lease.owner:
            return multiple()
        return self.write(view, replace(view, lease=Lease(view.lease.epoch)))

    @rule(minutes=st.integers(1, 20))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(target=views, server=SERVERS)
    def restart(self, server: str) -> Any:
        """A process of a server begins: whatever an earlier one of it ran is now its own.

        What that had only claimed waits in its place again, for whoever comes.
        """
        expected = []
        for known in self.known.values():
            stored = known.stored
            lease = stored.lease
            expired = lease.expire_time is not None and lease.expire_time < self.now
            if stored.state is S.QUEUED:
                if lease.owner == server or expired:
                    known.stored = replace(stored, lease=Lease(lease.epoch + 1))
            elif not stored.state.final and (lease.owner in {"", server} or expired):
                lasts = max(lease.expire_time or self.now, self.now)
                known.stored = replace(stored, lease=Lease(lease.epoch + 1, server, lasts))
                expected.append(known.stored)
        taken = self.run(
            self.store.executions.take_over(server, now=self.now, expire_time=self.now)
        )
        assert sorted(taken, key=str) == sorted(expected, key=str)
        return multiple(*taken)

    def write(self, view: Execution, changed: Execution, *bodies: EventBody) -> Any:
        """Write with the epoch of a view, which must work if, and only if, it is current."""
        known = self.known[view.name]
        sequence = view.last_sequence
        events = [Event(sequence + n, self.now, body) for n, body in enumerate(bodies, 1)]
        changed = replace(changed, last_sequence=sequence + len(events))
        epoch = view.lease.epoch
        current = known.stored.lease.epoch == epoch and not known.stored.state.final
        # Two views of one holder are one process, which numbers its events itself.
        if current and view.last_sequence != known.stored.last_sequence:
            return multiple()
        append = self.store.executions.append(view.name, events, changed, epoch=epoch)
        if not current:
            try:
                self.run(append)
            except LeaseLostError:
                return multiple()
            raise AssertionError(f"{view.name} was written with the stale epoch {epoch}")
        self.run(append)
        known.stored = changed
        known.journal += events
        return changed

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def nothing_accepted_is_lost(self) -> None:
        if not hasattr(self, "store"):
            return
        query = self.store.executions.list(ExecutionQuery("default"), PageRequest(1000))
        found = {each.name: each for each in self.run(query).items}
        assert found == {name: known.stored for name, known in self.known.items()}

    @invariant()
    def journals_are_dense_and_end_once(self) -> None:
        for name, known in self.known.items():
            events = self.run(self.store.executions.events(name, after=0, limit_bytes=10**6))
            assert [each.sequence for each in events] == [*range(1, len(known.journal) + 1)]
            assert len(events) == len(known.journal)
            ends = [number for number, e in enumerate(events, 1) if isinstance(e.body, Result)]
            assert ends == ([len(events)] if known.stored.state.final else [])


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
