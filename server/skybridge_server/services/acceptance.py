"""Accepts executions: checks what is asked, stores it, and only then lets it run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from skybridge_server.errors import FailedPreconditionError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import Function, FunctionState, Revision
from skybridge_server.models.journal import Event, StateChange
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.claims import Claims
from skybridge_server.services.clock import Clock
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import Journal, Opening
from skybridge_server.services.lease import taken
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.rules import check_contract_input
from skybridge_server.services.slots import ANYWHERE, Slots, Ticket
from skybridge_server.services.violations import Violations

KEPT_REVISIONS = 1024

UNKNOWN_STOP = Failure(FailureReason.CANCELLED, "it was cancelled")
"""Why an execution was stopped, where an older server did not say."""

Accepted = tuple[ExecutionName, ActiveExecution | None]
"""Name of an execution, and what stands in memory of it unless it has ended."""


class Acceptance:
    """The door for executions."""

    def __init__(
        self,
        repositories: Repositories,
        engines: Engines,
        slots: Slots,
        registry: Registry,
        pool: Pool,
        clock: Clock,
        on_delay: Callable[[], None],
    ) -> None:
        """`on_delay`: called when an execution that is stored waits for its start."""
        self._repositories = repositories
        self._engines = engines
        self._slots = slots
        self._registry = registry
        self._pool = pool
        self._clock = clock
        self._on_delay = on_delay
        self._storing: set[asyncio.Task[None]] = set()
        self._revisions: dict[tuple[str, int], Revision] = {}
        """Those that were executed, by uid of the function and number: they never change."""
        self._claims: Claims[Accepted] = Claims()
        self._storing_works = True
        """False once a held execution was refused, until the store takes one again."""

    async def accept(
        self,
        request: ExecutionRequest,
        *,
        disconnect_grace: float | None,
        not_after: datetime | None = None,
        alone: bool = False,
    ) -> Accepted:
        """Store and launch an execution, or find the one that the same request made before.

        `alone`: nobody hears of it before its end, so that it may be stored then.
        """
        key = request.key
        if not alone or key is None:
            return await self._accept(request, disconnect_grace, not_after, alone=alone)
        if (first := await self._claims.claim(key)) is not None:
            return first
        held = False
        try:
            accepted = await self._accept(request, disconnect_grace, not_after, alone=True)
            self._claims.grant(key, accepted)
            held = accepted[1] is not None and accepted[1].journal.held
            return accepted
        finally:
            if not held:
                self._claims.release(key)

    async def _accept(
        self,
        request: ExecutionRequest,
        disconnect_grace: float | None,
        not_after: datetime | None,
        *,
        alone: bool,
    ) -> Accepted:
        async def do() -> Accepted:
            if request.start_time is not None and request.start_time > self._clock.now():
                return await self._put_off(request, request.start_time), None
            active = await self._admit(request)
            active.disconnect_grace = disconnect_grace
            active.not_after = not_after
            if alone and self._may_hold(active):
                self._hold_and_launch(active, request)
            else:
                await self._store(active, request)
            return active.name, active

        async def repeat(recorded: Request) -> Accepted:
            name = ExecutionName(request.function.namespace, recorded.resource)
            return name, self._registry.get(name)

        return await idempotency.once(self._repositories.requests, request.key, do, repeat)

    def readmit(self, execution: Execution, revision: Revision) -> None:
        """Launch an execution that was accepted earlier: it waits for a place, or goes on.

        FailedPreconditionError: its runtime is gone.
        """
        self._engines.get(revision.spec.runtime)
        state, warm = execution.state, revision.spec.contract.kind.warm
        if state is ExecutionState.QUEUED or (warm and state is ExecutionState.STARTING):
            ticket = self._enter(execution.function_uid, revision, always=True)
        else:
            ticket = self._slots.resume(execution.function_uid, revision.spec.scaling)
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

    async def _admit(self, request: ExecutionRequest) -> ActiveExecution:
        """Check whether the function can be executed now, and take a place in the queue."""
        function, revision = await self._check(request)
        self._engines.check(revision.spec.runtime)
        ticket = self._enter(function.uid, revision)
        return self._activate(_new_execution(request, function), revision, ticket)

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

    def _enter(self, function_uid: str, revision: Revision, *, always: bool = False) -> Ticket:
        warm = revision.spec.contract.kind.warm
        seats = self._pool.seats(function_uid, revision) if warm else ANYWHERE
        return self._slots.enter(function_uid, revision.spec.scaling, seats, always=always)

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

    def _may_hold(self, active: ActiveExecution) -> bool:
        """Tell whether an execution will soon be over, and its record may wait until then."""
        ticket = active.ticket
        on_instance = ticket.seat is not None and ticket.seat is not ANYWHERE
        return on_instance and self._storing_works and self._registry.launching

    def _hold_and_launch(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        """Launch an execution whose journal is stored in one write, see decision 0014."""
        record = idempotency.record(request.key, resource=active.name.execution)
        active.input = request.input
        lease = partial(taken, active, self._registry.server_id)
        active.journal.hold(Opening(request.input, record, lease))

        def after() -> None:
            if active.refused is not None:
                self._storing_works = False
            if request.key is not None:
                self._claims.release(request.key)

        self._registry.launch(active, after)

    # -- executions that are stored first -------------------------------------------------------

    async def _store(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        storing = self._begin(self._store_and_launch(active, request))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            storing.add_done_callback(lambda _: active.leave_alone(active.not_after))
            raise

    def _begin(self, storing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Store something, to the end: what is on disk must not be left lying."""
        task = asyncio.create_task(storing)
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)
        return task

    async def _store_and_launch(self, active: ActiveExecution, request: ExecutionRequest) -> None:
        execution, first_event = active.journal.open()
        record = idempotency.record(request.key, resource=execution.name.execution)
        self._registry.expect(active)
        try:
            # Checked again, in one with the write: it may be deleted by now.
            await self._repositories.executions.add(
                execution, request.input, [first_event], record, check_function=True
            )
        except BaseException:
            self._registry.forget(active)
            active.ticket.release()
            raise
        self._storing_works = True
        active.journal.stored([first_event])
        if active.ticket.turn.is_set() and active.ticket.seat is not ANYWHERE:
            active.input = request.input  # it runs now: the store need not be asked for it
        self._registry.launch(active)

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
