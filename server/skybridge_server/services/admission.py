"""Stores executions that were accepted, and only then lets them run.

Once begun this goes on to its end, whoever stops waiting for it: what is on disk must not be left
lying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from skybridge_server.models.executions import Execution, Timings
from skybridge_server.models.journal import Event, StateChange
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services import idempotency
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.backlog import Backlog
from skybridge_server.services.clock import Clock
from skybridge_server.services.lease import taken
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import ExecutionRequest, RequestKey
from skybridge_server.services.slots import ANYWHERE


class Admission:
    """Brings executions into the store, and from there to where they wait or run."""

    def __init__(
        self, executions: ExecutionRepository, registry: Registry, backlog: Backlog, clock: Clock
    ) -> None:
        """`clock`: what start times are measured by."""
        self._executions = executions
        self._registry = registry
        self._backlog = backlog
        self._clock = clock
        self._storing: dict[asyncio.Future[None], RequestKey | None] = {}
        """What must not be forgotten, each with the key of its request."""
        self.storing_works = True
        """False once one that had ended was refused, until the store takes one again."""

    async def admit(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        """Store and launch an execution for a caller, who may leave meanwhile."""
        storing = self._begin(request, self._store_and_launch(active, request))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            _leave_alone_after(storing, active)
            raise

    def admit_alone(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        """Store and launch an execution whose caller has left already."""
        storing = self._begin(request, self._store_and_launch(active, request))
        _leave_alone_after(storing, active)

    def due_time(self, request: ExecutionRequest) -> datetime | None:
        """Return the time that an execution has to wait for; None: it may start now."""
        later = request.start_time is not None and request.start_time > self._clock.now()
        return request.start_time if later else None

    async def put_off(self, execution: Execution, request: ExecutionRequest) -> None:
        """Store an execution that waits for its time."""

        def done(stored: bool) -> None:
            if stored:
                self._backlog.put_off()

        await self._store(execution, request, done)

    async def line_up(self, execution: Execution, request: ExecutionRequest) -> None:
        """Store an execution that has a position in the queue of its function."""

        def done(stored: bool) -> None:
            if stored:
                self._backlog.stored(execution.function_uid)
            else:
                self._backlog.withdraw(execution.function_uid)

        await self._store(execution, request, done)

    def refused(self) -> None:
        """Hear that the store did not take what had ended."""
        self.storing_works = False

    def storing(self, key: RequestKey) -> asyncio.Future[None] | None:
        """Return what stores the execution of a request just now, perhaps for nobody."""
        return next((task for task, of in self._storing.items() if of == key), None)

    def _begin(
        self, request: ExecutionRequest, storing: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(storing)
        self._storing[task] = request.key
        task.add_done_callback(self._storing.pop)
        return task

    async def _store(
        self, execution: Execution, request: ExecutionRequest, done: Callable[[bool], None]
    ) -> None:
        """Store an execution of which nothing stays in memory; `done` hears whether that was done.

        There is no task for it: thousands come each second, and nothing is left to do but that.
        """
        first_event = Event(1, execution.create_time, StateChange(execution.state))
        try:
            storing = asyncio.ensure_future(self._add(execution, request, [first_event]))
        except BaseException:
            done(False)
            raise
        self._storing[storing] = request.key

        def settled(_: asyncio.Future[None]) -> None:
            del self._storing[storing]
            stored = not storing.cancelled() and storing.exception() is None
            self.storing_works = self.storing_works or stored
            done(stored)

        storing.add_done_callback(settled)
        await asyncio.shield(storing)

    async def _store_and_launch(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        execution, events = active.journal.open(**self._facts(active))
        self._registry.expect(active)
        try:
            await self._add(execution, request, events)
        except BaseException:
            self._registry.forget(active)
            active.ticket.release()
            if active.begun is not None:
                active.begun.give_up()
            raise
        self.storing_works = True
        active.journal.stored(events)
        if active.ticket.turn.is_set() and active.ticket.seat is not ANYWHERE:
            active.input = request.input  # it runs now: the store need not be asked for it
        self._registry.launch(active)

    def _add(
        self, execution: Execution, request: ExecutionRequest, events: list[Event]
    ) -> Awaitable[None]:
        record = idempotency.record(request.key, resource=execution.name.execution)
        # The function is checked again, in one with the write: it may be deleted by now.
        return self._executions.add(execution, request.input, events, record, check_function=True)

    def _facts(self, active: ActiveExecution) -> dict[str, Any]:
        """Return what is new since its acceptance of an execution that has begun."""
        begun = active.begun
        if begun is None:
            return {}
        return {
            "start_time": begun.start_time,
            "timings": Timings(queue=timedelta(0)),
            "instance": begun.instance.name.instance,
            "lease": taken(active, self._registry.server_id),
        }


def _leave_alone_after(storing: asyncio.Task[None], active: ActiveExecution) -> None:
    storing.add_done_callback(lambda _: active.leave_alone(active.not_after))
