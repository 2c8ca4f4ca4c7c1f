"""Puts right what an earlier process left in the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError, StorageError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.journal import GapReason
from skybridge_server.models.names import RevisionName
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.journal import Journal
from skybridge_server.services.lease import SETTLING
from skybridge_server.services.retries import Retries

log = structlog.get_logger(__name__)


class Recovery:
    """Goes over the store once, at the start."""

    def __init__(
        self,
        repositories: Repositories,
        acceptance: Acceptance,
        retries: Retries,
        server_id: str,
    ) -> None:
        self._executions = repositories.executions
        self._revisions = repositories.revisions
        self._acceptance = acceptance
        self._retries = retries
        self._server_id = server_id

    async def run(self) -> None:
        """Let executions that waited go on, and settle all others. StorageError."""
        now = datetime.now(UTC)
        left = await self._executions.take_over(
            self._server_id, now=now, expire_time=now + SETTLING
        )
        for execution in left:
            await self._recover(execution)

    async def _recover(self, execution: Execution) -> None:
        """Let an execution that waited go on waiting; any other one is lost."""
        if execution.state is ExecutionState.QUEUED and not execution.interactive:
            await self.let_go_on(execution)
        else:
            await self._settle(execution, Failure(FailureReason.LOST, _how_lost(execution)))

    async def let_go_on(self, execution: Execution) -> None:
        """Launch an execution that waited; it is lost if its revision is. StorageError."""
        try:
            await self._acceptance.readmit(execution)
        except StorageError:
            raise
        except SkybridgeError as error:
            await self._settle(execution, Failure(FailureReason.LOST, error.message))

    async def _settle(self, execution: Execution, failure: Failure) -> None:
        now = datetime.now(UTC)
        total = max(now - execution.ready_time, timedelta(0))
        ended = replace(
            execution,
            state=failure.reason.state,
            failure=failure,
            end_time=now,
            timings=replace(execution.timings, total=total),
        )
        ran = execution.state is not ExecutionState.QUEUED
        gap_reason = GapReason.RUNTIME_UNAVAILABLE if ran else None
        journal = Journal(execution, self._executions, output_limit=0)
        waiting = await self._next_attempt(execution, ended)
        if waiting is None:
            await journal.end(ended, gap_reason=gap_reason)
        else:
            await journal.end_attempt(ended, waiting, gap_reason=gap_reason)
        log.warning("execution lost", execution=str(execution.name), state=execution.state.name)

    async def _next_attempt(self, execution: Execution, ended: Execution) -> Execution | None:
        if execution.state is ExecutionState.CANCELLING:
            return None  # somebody may have cancelled it, and that must not be taken back
        try:
            revision = await self._revisions.get(RevisionName(ended.function, ended.revision))
        except NotFoundError:
            return None
        return self._retries.next_attempt(ended, revision.spec.retry_policy)


def _how_lost(execution: Execution) -> str:
    if execution.state is ExecutionState.QUEUED:
        return "the server was restarted before the execution ran, and its caller was cut off"
    return (
        f"the server was restarted while the execution was {execution.state.name}; "
        "its end is unknown"
    )
