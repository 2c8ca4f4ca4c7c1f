"""Accepts executions: checks what is asked, stores it, and only then lets it run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
)
from skybridge_server.models.functions import Function, FunctionState, Revision
from skybridge_server.models.journal import Event, StateChange
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.begun import Begun
from skybridge_server.services.claims import Claims
from skybridge_server.services.clock import Clock
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import Journal
from skybridge_server.services.lease import taken
from skybridge_server.services.places import Places
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.rules import check_contract_input
from skybridge_server.services.slots import ANYWHERE, Ticket
from skybridge_server.services.swift import Finished, Swift
from skybridge_server.services.violations import Violations

KEPT_REVISIONS = 1024

UNKNOWN_STOP = Failure(FailureReason.CANCELLED, "it was cancelled")
"""Why an execution was stopped, where an older server did not say."""

LEFT_AT_ONCE = 0.0
"""Seconds that an execution lives once its only caller has left."""

T = TypeVar("T")

Accepted = tuple[ExecutionName, ActiveExecution | None]
"""Name of an execution, and what stands in memory of it unless it has ended."""


class Acceptance:
    """The door for executions."""

    def __init__(
        self,
        repositories: Repositories,
        engines: Engines,
        places: Places,
        registry: Registry,
        swift: Swift,
        clock: Clock,
        on_delay: Callable[[], None],
    ) -> None:
        """`on_delay`: called when an execution that is stored waits for its start."""
        self._repositories = repositories
        self._engines = engines
        self._places = places
        self._registry = registry
        self._swift = swift
        self._clock = clock
        self._on_delay = on_delay
        self._storing: set[asyncio.Task[None]] = set()
        self._revisions: dict[tuple[str, int], Revision] = {}
        """Those that were executed, by uid of the function and number: they never change."""
        self._claims: Claims[Finished | Accepted] = Claims()
        self._storing_works = True
        """False once one that had ended was refused, until the store takes one again."""

    async def accept(
        self,
        request: ExecutionRequest,
        *,
        disconnect_grace: float | None,
        not_after: datetime | None = None,
    ) -> Accepted:
        """Store and launch an execution, or find the one that the same request made before."""

        async def do() -> Accepted:
            if request.start_time is not None and request.start_time > self._clock.now():
                return await self._put_off(request, request.start_time), None
            function, revision = await self._startable(request)
            ticket = self._places.enter(function.uid, revision)
            return await self._admit(
                request, function, revision, ticket, disconnect_grace, not_after
            )

        return await self._once(request, do)

    async def execute(
        self, request: ExecutionRequest, not_after: datetime | None
    ) -> Finished | Accepted:
        """Accept an execution for a caller who waits for its end, and who leaves with its task.

        Nobody else hears of it before, so that it may be stored only then.
        """
        key = request.key
        if key is None:
            return await self._execute(request, not_after)
        if (first := await self._claims.claim(key)) is not None:
            return first
        result: Finished | Accepted | None = None
        try:
            result = await self._once(request, partial(self._execute, request, not_after))
            self._claims.grant(key, result)
            return result
        finally:
            if isinstance(result, Finished):
                # Until then the store does not know of the request.
                result.stored.add_done_callback(lambda _: self._claims.release(key))
            else:
                self._claims.release(key)

    def readmit(self, execution: Execution, revision: Revision) -> None:
        """Launch an execution that was accepted earlier: it waits for a place, or goes on.

        FailedPreconditionError: its runtime is gone.
        """
        self._engines.get(revision.spec.runtime)
        ticket = self._places.readmit(execution.function_uid, revision, execution.state)
        active = self._activate(execution, revision, ticket)
        active.left_behind = True
        if execution.state is ExecutionState.CANCELLING:
            active.stop_reason = execution.failure or UNKNOWN_STOP
            active.stopping.set()
        self._registry.launch(active)

    async def _put_off(self, request: ExecutionRequest, due_time: datetime) -> ExecutionName:
        """Store an execution that waits for its time; it needs no place in the queue yet."""
        function, _ = await self._check(request)
        execution = replace(
            _new_execution(request, function), due_time=due_time, not_before=due_time
        )
        await asyncio.shield(self._begin(self._store_for_later(execution, request)))
        return execution.name

    async def _once(
        self, request: ExecutionRequest, do: Callable[[], Awaitable[T]]
    ) -> T | Accepted:
        async def repeat(recorded: Request) -> T | Accepted:
            name = ExecutionName(request.function.namespace, recorded.resource)
            return name, self._registry.get(name)

        return await idempotency.once(self._repositories.requests, request.key, do, repeat)

    async def _admit(
        self,
        request: ExecutionRequest,
        function: Function,
        revision: Revision,
        ticket: Ticket,
        disconnect_grace: float | None,
        not_after: datetime | None,
    ) -> Accepted:
        """Store and launch an execution that has a place, at least in the queue."""
        active = self._activate(_new_execution(request, function), revision, ticket)
        active.disconnect_grace = disconnect_grace
        active.not_after = not_after
        await self._store(active, request)
        return active.name, active

    async def _startable(self, request: ExecutionRequest) -> tuple[Function, Revision]:
        """Return the function and its revision that a request is for, if they can start now."""
        function, revision = await self._check(request)
        self._engines.check(revision.spec.runtime)
        return function, revision

    async def _check(self, request: ExecutionRequest) -> tuple[Function, Revision]:
        """Return the function and its revision that a request is for, if they can take it."""
        function, revision = await self.runnable(request.function)
        with Violations() as wrong:
            check_contract_input(request, revision.spec.contract, wrong)
        if request.interactive and revision.spec.contract.kind.warm:
            raise FailedPreconditionError(
                f"function '{function.name}' has no stdin that callers could write: its contract "
                f"is {revision.spec.contract.kind.name}; use ExecuteFunction or StreamExecution",
                reason="NOT_INTERACTIVE",
            )
        return function, revision

    async def runnable(self, name: FunctionName) -> tuple[Function, Revision]:
        """Return a function and its revision that can be executed now.

        NotFoundError, FailedPreconditionError.
        """
        function = await self._repositories.functions.get(name)
        return function, await self._revision_to_run(function)

    async def _revision_to_run(self, function: Function) -> Revision:
        if function.state is FunctionState.DISABLED:
            raise FailedPreconditionError(
                f"function '{function.name}' is disabled: enable it with EnableFunction",
                reason="FUNCTION_DISABLED",
            )
        if not function.active_revision:
            raise FailedPreconditionError(
                f"function '{function.name}' was never deployed: deploy it with DeployFunction",
                reason="FUNCTION_NOT_DEPLOYED",
            )
        key = (function.uid, function.active_revision)
        revision = self._revisions.get(key)
        if revision is None:
            name = RevisionName(function.name, function.active_revision)
            revision = await self._repositories.revisions.get(name)
            if len(self._revisions) >= KEPT_REVISIONS:
                self._revisions.clear()
            self._revisions[key] = revision
        return revision

    def _activate(
        self, execution: Execution, revision: Revision, ticket: Ticket
    ) -> ActiveExecution:
        limit = revision.spec.resources.output_bytes
        queued_time = execution.not_before or execution.ready_time
        if execution.not_before is not None:
            execution = replace(execution, not_before=None)
        journal = Journal(execution, self._repositories.executions, limit)
        return ActiveExecution(journal, revision, ticket, queued_time)

    # -- executions that are stored when they end -----------------------------------------------

    async def _execute(
        self, request: ExecutionRequest, not_after: datetime | None
    ) -> Finished | Accepted:
        function, revision = await self._startable(request)
        ticket = self._take(function.uid, revision)
        begun: Begun | None = None
        if ticket is not None:
            begun = await self._begin_now(request, function, revision, ticket, not_after)
        if begun is None:
            ticket = ticket or self._places.enter(function.uid, revision)
            return await self._admit(request, function, revision, ticket, LEFT_AT_ONCE, not_after)
        try:
            whole = await self._swift.collect(begun)
        except asyncio.CancelledError:
            self._store_abandoned(self._taken_over(begun, not_after), request)
            raise
        if whole:
            return await self._conclude(begun)
        active = self._taken_over(begun, not_after)
        await self._store(active, request)
        return active.name, active

    def _take(self, function_uid: str, revision: Revision) -> Ticket | None:
        """Take a place on an idle instance, where its execution can be stored at its end."""
        recorded_later = self._storing_works and self._registry.launching
        if not recorded_later or self._registry.followed:
            return None
        return self._places.take(function_uid, revision)

    async def _begin_now(
        self,
        request: ExecutionRequest,
        function: Function,
        revision: Revision,
        ticket: Ticket,
        not_after: datetime | None,
    ) -> Begun | None:
        limit = min(revision.spec.timeouts.execution, request.timeout or timedelta.max)
        if not_after is not None:
            limit = min(limit, not_after - datetime.now(UTC))
        try:
            return await self._swift.begin(request, function, revision, ticket, limit)
        except BaseException:
            ticket.release()
            raise

    async def _conclude(self, begun: Begun) -> Finished:
        try:
            return await self._swift.conclude(begun)
        except StorageError:
            self._storing_works = False
            raise

    def _taken_over(self, begun: Begun, not_after: datetime | None) -> ActiveExecution:
        """Return what stands in memory of an execution that runs already, to be stored so."""
        new = _new_execution(begun.request, begun.function)
        execution = replace(new, name=begun.name, create_time=begun.start_time)
        active = self._activate(execution, begun.revision, begun.ticket)
        active.begun = begun
        active.disconnect_grace = LEFT_AT_ONCE
        active.not_after = not_after
        return active

    # -- executions that are stored first -------------------------------------------------------

    async def _store(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        storing = self._begin(self._store_and_launch(active, request))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            storing.add_done_callback(lambda _: active.leave_alone(active.not_after))
            raise

    def _store_abandoned(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        """Store an execution whose caller has left already."""
        storing = self._begin(self._store_and_launch(active, request))
        storing.add_done_callback(lambda _: active.leave_alone(active.not_after))

    def _begin(self, storing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Store something, to the end: what is on disk must not be left lying."""
        task = asyncio.create_task(storing)
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        return task

    async def _store_and_launch(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        execution, events = active.journal.open(**self._facts(active))
        record = idempotency.record(request.key, resource=execution.name.execution)
        self._registry.expect(active)
        try:
            # Checked again, in one with the write: it may be deleted by now.
            await self._repositories.executions.add(
                execution, request.input, events, record, check_function=True
            )
        except BaseException:
            self._registry.forget(active)
            active.ticket.release()
            if active.begun is not None:
                active.begun.give_up()
            raise
        self._storing_works = True
        active.journal.stored(events)
        if active.ticket.turn.is_set() and active.ticket.seat is not ANYWHERE:
            active.input = request.input  # it runs now: the store need not be asked for it
        self._registry.launch(active)

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

    async def _store_for_later(self, execution: Execution, request: ExecutionRequest) -> None:
        record = idempotency.record(request.key, resource=execution.name.execution)
        first_event = Event(1, execution.create_time, StateChange(execution.state))
        await self._repositories.executions.add(
            replace(execution, last_sequence=1),
            request.input,
            [first_event],
            record,
            check_function=True,
        )
        self._on_delay()


def _new_execution(request: ExecutionRequest, function: Function) -> Execution:
    return Execution(
        name=ExecutionName(request.function.namespace, new_id()),
        function=function.name,
        function_uid=function.uid,
        revision=function.active_revision,
        create_time=datetime.now(UTC),
        timeout=request.timeout,
        interactive=request.interactive,
        background=request.background,
        traceparent=request.traceparent,
        labels=request.labels,
        asked=request.envelope,
    )
