"""Puts things right: what an earlier process left in the store, and containers nobody knows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.models.executions import Execution, ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Event, Gap, GapReason, Output, OutputStream, Result
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import labels
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.engines import Engines
from skybridge_server.services.registry import Registry

SWEEP_INTERVAL = 60.0
READ_BYTES = 4 * MIB

log = structlog.get_logger(__name__)


class Recovery:
    """Goes over the store once at the start, and over the engines every minute."""

    def __init__(
        self,
        repositories: Repositories,
        acceptance: Acceptance,
        registry: Registry,
        engines: Engines,
        server_id: str,
    ) -> None:
        self._repositories = repositories
        self._acceptance = acceptance
        self._registry = registry
        self._engines = engines
        self._server_id = server_id
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Settle what an earlier process left, then sweep until closed."""
        for execution in await self._repositories.executions.unfinished():
            await self._recover(execution)
        self._engines.on_change(self._due.set)
        self._task = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _recover(self, execution: Execution) -> None:
        """Let an execution that waited go on waiting; any other one is lost."""
        if execution.state is ExecutionState.QUEUED and not execution.interactive:
            try:
                await self._acceptance.readmit(execution)
            except SkybridgeError as error:
                await self._settle(execution, Failure(FailureReason.LOST, error.message))
            return
        await self._settle(
            execution,
            Failure(
                FailureReason.LOST,
                "the server was restarted while the execution was "
                f"{execution.state.name}; its end is unknown",
            ),
        )

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
            timings=replace(execution.timings, total=now - execution.create_time),
        )
        events.append(Event(sequence + 1, now, Result(ended)))
        await self._repositories.executions.append(execution.name, events, ended)
        log.warning("execution lost", execution=str(execution.name), state=execution.state.name)

    async def _end_of_journal(self, execution: Execution) -> tuple[int, dict[OutputStream, int]]:
        """Return the last stored sequence, and how much of each stream is stored."""
        sequence, kept = 0, dict.fromkeys(OutputStream, 0)
        while events := await self._repositories.executions.events(
            execution.name, after=sequence, limit_bytes=READ_BYTES
        ):
            sequence = events[-1].sequence
            for event in events:
                if isinstance(event.body, Output):
                    kept[event.body.stream] += len(event.body.data)
        return sequence, kept

    # -- containers -----------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("sweep broke")
            try:
                async with asyncio.timeout(SWEEP_INTERVAL):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()

    async def sweep(self) -> int:
        """Remove our containers whose execution has ended; return how many."""
        removed = 0
        for status in self._engines.status():
            if status.ready:
                removed += await self._sweep_engine(status.name)
        return removed

    async def _sweep_engine(self, name: str) -> int:
        containers = self._engines.get(name).containers
        removed = 0
        try:
            for record in await containers.list(labels.of_server(self._server_id)):
                if not self._registry.owns(record.labels.get(labels.EXECUTION, "")):
                    await containers.remove(record.id)
                    log.info("container removed", container=record.name)
                    removed += 1
        except SkybridgeError as error:
            log.warning("sweep cut short", runtime=name, detail=error.message)
        return removed
