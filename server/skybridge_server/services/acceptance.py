"""Accepts executions: checks what is asked, stores it, and only then lets it run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from skybridge_server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
)
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import Function, FunctionState, Revision
from skybridge_server.models.names import ExecutionName, RevisionName, new_id
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import Journal
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.rules import Violations, check_contract_input
from skybridge_server.services.slots import Slots, Ticket


class Acceptance:
    """The door for executions."""

    def __init__(
        self, repositories: Repositories, engines: Engines, slots: Slots, registry: Registry
    ) -> None:
        self._repositories = repositories
        self._engines = engines
        self._slots = slots
        self._registry = registry

    async def accept(
        self,
        request: ExecutionRequest,
        *,
        disconnect_grace: float | None,
        time_left: timedelta | None = None,
    ) -> tuple[ExecutionName, ActiveExecution | None]:
        """Store and launch an execution, or find the one that the same request made before.

        Returns its name, and what stands in memory of it unless it has ended.
        """
        first = await self._find(request)
        if first is not None:
            return first, self._registry.get(first)
        function = await self._repositories.functions.get(request.function)
        revision = await self._revision_to_run(function)
        with Violations() as wrong:
            check_contract_input(request.input, revision.spec.contract, wrong)
        self._engines.check(revision.spec.runtime)
        ticket = self._slots.enter(function.uid, revision.spec.scaling)
        try:
            active = self._activate(_new_execution(request, function), revision, ticket)
            active.input = request.input
            active.disconnect_grace = disconnect_grace
            active.not_after = None if time_left is None else datetime.now(UTC) + time_left
            first = await self._store(active, request)
        except BaseException:
            ticket.release()
            raise
        if first is not None:
            ticket.release()
            return first, self._registry.get(first)
        self._registry.launch(active)
        return active.name, active

    async def readmit(self, execution: Execution) -> None:
        """Launch an execution that an earlier process accepted and that still waits."""
        revision = await self._repositories.revisions.get(
            RevisionName(execution.function, execution.revision)
        )
        ticket = self._slots.enter(execution.function_uid, revision.spec.scaling, always=True)
        active = self._activate(execution, revision, ticket)
        active.input = await self._repositories.executions.get_input(execution.name)
        self._registry.launch(active)

    async def _find(self, request: ExecutionRequest) -> ExecutionName | None:
        recorded = await idempotency.find(self._repositories.requests, request.key)
        if recorded is None:
            return None
        return ExecutionName(request.function.namespace, recorded.resource)

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
        name = RevisionName(function.name, function.active_revision)
        return await self._repositories.revisions.get(name)

    def _activate(
        self, execution: Execution, revision: Revision, ticket: Ticket
    ) -> ActiveExecution:
        limit = revision.spec.resources.output_bytes
        journal = Journal(execution, self._repositories.executions, limit)
        return ActiveExecution(journal, revision, ticket)

    async def _store(
        self, active: ActiveExecution, request: ExecutionRequest
    ) -> ExecutionName | None:
        """Store an execution; if its request was recorded meanwhile, return that one's name."""
        first_event = active.journal.first_event()
        execution = active.journal.execution
        record = idempotency.record(request.key, resource=execution.name.execution)
        try:
            await self._repositories.executions.add(execution, request.input, [first_event], record)
        except AlreadyExistsError:
            return await self._find(request)
        active.journal.stored([first_event])
        return None


def _new_execution(request: ExecutionRequest, function: Function) -> Execution:
    return Execution(
        name=ExecutionName(request.function.namespace, new_id()),
        function=function.name,
        function_uid=function.uid,
        revision=function.active_revision,
        create_time=datetime.now(UTC),
        timeout=request.timeout,
        interactive=request.interactive,
        traceparent=request.traceparent,
        labels=request.labels,
        last_sequence=0,
    )
