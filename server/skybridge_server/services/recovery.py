"""Takes over what an earlier process left in the store, at the start of this one.

What waited waits again. What ran, or was about to, goes on wherever that can be known: see Runner.
All that ran is known before the first caller comes; the engine is asked in the background.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError, StorageError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import FunctionSpec, Revision
from skybridge_server.models.journal import GapReason
from skybridge_server.models.names import RevisionName
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.journal import Journal
from skybridge_server.services.lease import SETTLING
from skybridge_server.services.retries import Retries

AT_ONCE = 200
"""Executions that waited and wait again before the first caller comes; the others follow in the
background, as those do whose time has come: thousands would keep callers waiting."""
BREATH = 100
"""Executions between two moments for others, such as a signal to stop."""

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
        self._waiting = repositories.waiting
        self._revisions = repositories.revisions
        self._acceptance = acceptance
        self._retries = retries
        self._server_id = server_id

    async def run(self) -> None:
        """Let all that has not ended go on. StorageError."""
        now = datetime.now(UTC)
        await self._waiting.set_aside(but=AT_ONCE)
        left = await self._executions.take_over(
            self._server_id, now=now, expire_time=now + SETTLING
        )
        known: dict[RevisionName, Revision] = {}  # few, while executions may be many
        for number, execution in enumerate(left, 1):
            await self.let_go_on(execution, known)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        if left:
            waiting = sum(each.state is ExecutionState.QUEUED for each in left)
            log.info("executions taken over", waiting=waiting, begun=len(left) - waiting)

    async def let_go_on(
        self, execution: Execution, known: dict[RevisionName, Revision] | None = None
    ) -> None:
        """Launch an execution that waits, or was begun; it is lost if its revision is.

        StorageError.
        """
        name = RevisionName(execution.function, execution.revision)
        known = {} if known is None else known
        try:
            if name not in known:
                known[name] = await self._revisions.get(name)
            self._acceptance.readmit(execution, known[name])
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
        name = RevisionName(execution.function, execution.revision)
        try:
            return (await self._revisions.get(name)).spec
        except NotFoundError:
            return FunctionSpec(image="")
