"""Takes over what an earlier process left in the store, at the start of this one.

What waited waits on in the store, see Backlog. What ran, or was about to, goes on wherever that can
be known: see Runner. All that ran is known before the first caller comes; the engine is asked in
the background.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError, StorageError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.journal import GapReason
from skybridge_server.models.names import RevisionName
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.backlog import Backlog, Claimed
from skybridge_server.services.journal import Journal
from skybridge_server.services.lease import SETTLING
from skybridge_server.services.retries import Retries

BREATH = 100
"""Executions between two moments for others, such as a signal to stop."""

log = structlog.get_logger(__name__)


class Recovery:
    """Goes over the store once, at the start."""

    def __init__(
        self,
        repositories: Repositories,
        acceptance: Acceptance,
        backlog: Backlog,
        retries: Retries,
        server_id: str,
    ) -> None:
        self._executions = repositories.executions
        self._acceptance = acceptance
        self._backlog = backlog
        self._revisions = backlog.revisions
        self._retries = retries
        self._server_id = server_id

    async def run(self) -> None:
        """Let all that has not ended go on. StorageError."""
        now = datetime.now(UTC)
        left = await self._executions.take_over(
            self._server_id, now=now, expire_time=now + SETTLING
        )
        for number, execution in enumerate(left, 1):
            await self.let_go_on(Claimed(execution))
            if number % BREATH == 0:
                await asyncio.sleep(0)
        waiting = await self._backlog.restore()
        if left or waiting:
            log.info("executions taken over", waiting=waiting, begun=len(left))

    async def let_go_on(self, claimed: Claimed) -> bool:
        """Launch an execution that waits, or was begun; False: it is lost, as its revision is.

        StorageError.
        """
        execution = claimed.execution
        try:
            revision = await self._revisions.get(execution.function_uid, _revision_of(execution))
            self._acceptance.readmit(claimed, revision)
        except StorageError:
            raise
        except SkybridgeError as error:
            await self._settle(execution, Failure(FailureReason.LOST, error.message))
            return False
        return True

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
        spec = await self._spec(execution)
        # Somebody may have cancelled it, and that must not be taken back.
        final = execution.state is ExecutionState.CANCELLING
        waiting = None if final else self._retries.next_attempt(ended, spec.retry_policy)
        if waiting is None:
            follows = self._retries.aftermath(ended, spec)
            await journal.end(ended, gap_reason=gap_reason, aftermath=follows)
        else:
            await journal.end_attempt(ended, waiting, gap_reason=gap_reason)
        log.warning("execution lost", execution=str(execution.name), state=execution.state.name)

    async def _spec(self, execution: Execution) -> FunctionSpec:
        name = _revision_of(execution)
        try:
            return (await self._revisions.get(execution.function_uid, name)).spec
        except NotFoundError:
            return FunctionSpec(image="")


def _revision_of(execution: Execution) -> RevisionName:
    return RevisionName(execution.function, execution.revision)
