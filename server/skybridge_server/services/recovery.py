"""Puts right what an earlier process left in the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Event, Gap, GapReason, Output, OutputStream, Result
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.acceptance import Acceptance

READ_BYTES = 4 * MIB

log = structlog.get_logger(__name__)


class Recovery:
    """Goes over the store once, at the start."""

    def __init__(self, executions: ExecutionRepository, acceptance: Acceptance) -> None:
        self._executions = executions
        self._acceptance = acceptance

    async def run(self) -> None:
        """Let executions that waited go on, and settle all others. StorageError."""
        for execution in await self._executions.unfinished():
            await self._recover(execution)

    async def _recover(self, execution: Execution) -> None:
        """Let an execution that waited go on waiting; any other one is lost."""
        if execution.state is ExecutionState.QUEUED and not execution.interactive:
            try:
                await self._acceptance.readmit(execution)
            except SkybridgeError as error:
                await self._settle(execution, Failure(FailureReason.LOST, error.message))
            return
        await self._settle(execution, Failure(FailureReason.LOST, _how_lost(execution)))

    async def _settle(self, execution: Execution, failure: Failure) -> None:
        now = datetime.now(UTC)
        sequence, kept = await self._end_of_journal(execution)
        events = []
        if execution.state is not ExecutionState.QUEUED:
            for stream in OutputStream:
                sequence += 1
                gap = Gap(stream, kept[stream], None, GapReason.RUNTIME_UNAVAILABLE)
                events.append(Event(sequence, now, gap))
        ended = replace(
            execution,
            state=failure.reason.state,
            failure=failure,
            end_time=now,
            last_sequence=sequence + 1,
            stdout_bytes=kept[OutputStream.STDOUT],
            stderr_bytes=kept[OutputStream.STDERR],
            timings=replace(
                execution.timings, total=max(now - execution.create_time, timedelta(0))
            ),
        )
        events.append(Event(sequence + 1, now, Result(ended)))
        await self._executions.append(execution.name, events, ended)
        log.warning("execution lost", execution=str(execution.name), state=execution.state.name)

    async def _end_of_journal(self, execution: Execution) -> tuple[int, dict[OutputStream, int]]:
        """Return the last stored sequence, and how much of each stream is stored."""
        sequence, kept = 0, dict.fromkeys(OutputStream, 0)
        while events := await self._executions.events(
            execution.name, after=sequence, limit_bytes=READ_BYTES
        ):
            sequence = events[-1].sequence
            for event in events:
                if isinstance(event.body, Output):
                    kept[event.body.stream] += len(event.body.data)
        return sequence, kept


def _how_lost(execution: Execution) -> str:
    if execution.state is ExecutionState.QUEUED:
        return "the server was restarted before the execution ran, and its caller was cut off"
    return (
        f"the server was restarted while the execution was {execution.state.name}; "
        "its end is unknown"
    )
