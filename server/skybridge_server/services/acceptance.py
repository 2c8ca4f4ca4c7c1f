"""Accepts executions: checks what is asked, and finds out how it is to be stored and run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

from skybridge_server.errors import FailedPreconditionError
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Lease,
)
from skybridge_server.models.functions import Function, FunctionState, Revision
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.admission import Admission
from skybridge_server.services.backlog import HOLDING, Backlog, Claimed
from skybridge_server.services.begun import Begun, Finished
from skybridge_server.services.claims import Claims
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import Journal
from skybridge_server.services.places import Places
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.rules import check_contract_input
from skybridge_server.services.slots import Ticket
from skybridge_server.services.swift import Swift
from skybridge_server.services.violations import Violations

UNKNOWN_STOP = Failure(FailureReason.CANCELLED, "it was cancelled")
"""Why an execution was stopped, where an older server did not say."""

LEFT_AT_ONCE = 0.0
"""Seconds that an execution lives once its only caller has left."""

T = TypeVar("T")


class Accepted(NamedTuple):
    """What became of a request."""

    name: ExecutionName
    active: ActiveExecution | None
    """What stands in memory of the execution, unless it has ended or waits in the store."""
    stored: Execution | None = None
    """The execution as it was stored, if it waits there."""


class Acceptance:
    """The door for executions."""

    def __init__(
        self,
        repositories: Repositories,
        engines: Engines,
        places: Places,
        registry: Registry,
        swift: Swift,
        backlog: Backlog,
        admission: Admission,
    ) -> None:
        self._repositories = repositories
        self._engines = engines
        self._places = places
        self._registry = registry
        self._swift = swift
        self._backlog = backlog
        self._admission = admission
        swift.on_refusal = admission.refused
        self._claims: Claims[Finished | Accepted] = Claims()

    async def accept(
        self,
        request: ExecutionRequest,
        *,
        disconnect_grace: float | None,
        not_after: datetime | None = None,
    ) -> Accepted:
        """Store and launch an execution, or find the one that the same request made before."""

        async def do() -> Accepted:
            if (due_time := self._admission.due_time(request)) is not None:
                return await self._put_off(request, due_time)
            function, revision = await self._startable(request)
            if request.background:  # nobody waits for it here
                position = self._backlog.line_up(function.uid, revision)
                if position is not None:
                    return await self._line_up(request, function, position)
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
            # Until it is stored, perhaps after its caller has left, the store knows of no request.
            storing = (
                result.stored if isinstance(result, Finished) else self._admission.storing(key)
            )
            if storing is None:
                self._claims.release(key)
            else:
                storing.add_done_callback(lambda _: self._claims.release(key))

    def readmit(self, claimed: Claimed, revision: Revision) -> None:
        """Launch an execution that was accepted earlier: it waits for a place, or goes on.

        FailedPreconditionError: its runtime is gone.
        """
        execution = claimed.execution
        self._engines.get(revision.spec.runtime)
        active = self._activate(execution, revision, self._place_of(claimed, revision))
        active.deadline = claimed.deadline
        active.left_behind = True
        if execution.state is ExecutionState.CANCELLING:
            active.stop_reason = execution.failure or UNKNOWN_STOP
            active.stopping.set()
        self._registry.launch(active)

    def _place_of(self, claimed: Claimed, revision: Revision) -> Ticket:
        execution = claimed.execution
        if claimed.in_turn and execution.position is not None:
            return self._places.take_in(execution.function_uid, revision, execution.position)
        return self._places.readmit(execution.function_uid, revision, execution.state)

    async def _once(
        self, request: ExecutionRequest, do: Callable[[], Awaitable[T]]
    ) -> T | Accepted:
        if request.key is None:
            return await do()

        async def repeat(recorded: Request) -> T | Accepted:
            name = ExecutionName(request.function.namespace, recorded.resource)
            return Accepted(name, self._registry.get(name))

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
        lease = Lease(1, self._registry.server_id, datetime.now(UTC) + HOLDING)
        execution = _new_execution(request, function, position=ticket.number, lease=lease)
        active = self._activate(execution, revision, ticket)
        active.disconnect_grace = disconnect_grace
        active.not_after = not_after
        await self._admission.admit(active, request)
        return Accepted(active.name, active)

    async def _startable(self, request: ExecutionRequest) -> tuple[Function, Revision]:
        """Return the function and its revision that a request is for, if they can start now."""
        if (known := self._known(request)) is not None:
            return known
        function, revision = await self._check(request)
        self._engines.check(revision.spec.runtime)
        return function, revision

    async def _check(self, request: ExecutionRequest) -> tuple[Function, Revision]:
        """Return the function and its revision that a request is for, if they can take it."""
        function, revision = await self.runnable(request.function)
        _check_fits(request, function, revision)
        return function, revision

    def _known(self, request: ExecutionRequest) -> tuple[Function, Revision] | None:
        """Return what `_startable` does; None if the store has to be asked for it."""
        function = self._repositories.functions.find(request.function)
        if function is None:
            return None
        _check_runnable(function)
        revision = self._backlog.revisions.find(function.uid, function.active_revision)
        if revision is None:
            return None
        _check_fits(request, function, revision)
        self._engines.check(revision.spec.runtime)
        return function, revision

    async def runnable(self, name: FunctionName) -> tuple[Function, Revision]:
        """Return a function and its revision that can be executed now.

        NotFoundError, FailedPreconditionError.
        """
        function = await self._repositories.functions.get(name)
        return function, await self._revision_to_run(function)

    async def _revision_to_run(self, function: Function) -> Revision:
        _check_runnable(function)
        known = self._backlog.revisions.find(function.uid, function.active_revision)
        if known is not None:
            return known
        name = RevisionName(function.name, function.active_revision)
        return await self._backlog.revisions.get(function.uid, name)

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

    def begin(self, request: ExecutionRequest, not_after: datetime | None) -> Begun | None:
        """Have an idle instance execute at once; None: it takes more, and nothing has begun.

        Its `end` must be waited for, or `leave` called. Raises as `execute` does.
        """
        if request.key is not None:
            return None  # whether it is the first is to be found out before
        known = self._known(request)
        if known is None:
            return None
        function, revision = known
        ticket = self._take(function.uid, revision)
        if ticket is None:
            return None
        begun = self._begin_on(ticket, request, function, revision, not_after)
        if begun is None:
            ticket.release()
        return begun

    def leave(self, begun: Begun) -> None:
        """Let what has begun go on without its caller: unless it is over, it is stopped."""
        begun.end.cancel()
        if not begun.over:
            self._admission.admit_alone(self._taken_over(begun), begun.request)

    async def go_on(self, begun: Begun) -> Finished | Accepted:
        """Go on with what set its `end` to None, at last as with any execution that runs."""
        try:
            if (finished := await self._swift.settle(begun)) is not None:
                return finished
        except asyncio.CancelledError:
            self.leave(begun)
            raise
        active = self._taken_over(begun)
        await self._admission.admit(active, begun.request)
        return Accepted(active.name, active)

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
            return await begun.end or await self.go_on(begun)
        except asyncio.CancelledError:
            self.leave(begun)
            if begun.finished is not None:
                await asyncio.wait({begun.finished.stored})  # a repeat must find its record
            raise

    def _take(self, function_uid: str, revision: Revision) -> Ticket | None:
        """Take a place on an idle instance, where its execution can be stored at its end."""
        recorded_later = self._admission.storing_works and self._registry.launching
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
        """Have an instance execute, once it is connected to; None: nothing has begun."""
        begun = self._begin_on(ticket, request, function, revision, not_after)
        if begun is not None:
            return begun
        try:
            connected = await self._swift.connect(ticket)
        except BaseException:
            ticket.release()
            raise
        if not connected:
            return None
        return self._begin_on(ticket, request, function, revision, not_after)

    def _begin_on(
        self,
        ticket: Ticket,
        request: ExecutionRequest,
        function: Function,
        revision: Revision,
        not_after: datetime | None,
    ) -> Begun | None:
        try:
            return self._swift.begin(request, function, revision, ticket, not_after)
        except BaseException:
            ticket.release()
            raise

    def _taken_over(self, begun: Begun) -> ActiveExecution:
        """Return what stands in memory of an execution that runs already, to be stored so."""
        new = _new_execution(begun.request, begun.function, position=begun.ticket.number)
        execution = replace(new, name=begun.name, create_time=begun.start_time)
        active = self._activate(execution, begun.revision, begun.ticket)
        begun.over, active.begun = True, begun
        active.disconnect_grace = LEFT_AT_ONCE
        active.not_after = begun.not_after
        return active

    # -- executions that wait in the store ------------------------------------------------------

    async def _put_off(self, request: ExecutionRequest, due_time: datetime) -> Accepted:
        """Store an execution that waits for its time; it needs no place in the queue yet."""
        function, _ = await self._check(request)
        execution = _new_execution(
            request, function, due_time=due_time, not_before=due_time, last_sequence=1
        )
        await self._admission.put_off(execution, request)
        return Accepted(execution.name, None, execution)

    async def _line_up(
        self, request: ExecutionRequest, function: Function, position: int
    ) -> Accepted:
        """Store an execution that waits behind others of its function."""
        execution = _new_execution(request, function, position=position, last_sequence=1)
        await self._admission.line_up(execution, request)
        return Accepted(execution.name, None, execution)


def _check_runnable(function: Function) -> None:
    """Raise FailedPreconditionError for a function that is not to be executed now."""
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


def _check_fits(request: ExecutionRequest, function: Function, revision: Revision) -> None:
    """Check what is asked against the contract of the function."""
    contract = revision.spec.contract
    if not contract.kind.warm:
        with Violations() as wrong:
            check_contract_input(request, contract, wrong)
    elif request.interactive:
        raise FailedPreconditionError(
            f"function '{function.name}' has no stdin that callers could write: its contract "
            f"is {contract.kind.name}; use ExecuteFunction or StreamExecution",
            reason="NOT_INTERACTIVE",
        )


def _new_execution(request: ExecutionRequest, function: Function, **fields: Any) -> Execution:
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
        **fields,
    )
