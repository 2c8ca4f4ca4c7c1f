"""Executions: what callers may ask about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from skybridge_server.errors import FailedPreconditionError
from skybridge_server.models.executions import Attempt, Execution, FailureReason
from skybridge_server.models.functions import MIB
from skybridge_server.models.journal import Event, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.paging import ExecutionQuery, Page, PageRequest
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services.acceptance import Acceptance, Accepted
from skybridge_server.services.attach import AttachSession
from skybridge_server.services.backlog import Backlog
from skybridge_server.services.begun import Begun, Finished
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import LOG_TAIL_BYTES
from skybridge_server.services.logs import LogService
from skybridge_server.services.registry import Registry
from skybridge_server.services.requests import (
    ExecutionOutput,
    ExecutionRequest,
    Heartbeat,
    LogEntry,
    LogQuery,
)
from skybridge_server.services.watching import Watching

INLINE_OUTPUT_BYTES = 3 * MIB
ATTACH_GRACE = 30.0
"""Seconds that an attached execution lives without its caller."""


Ended = tuple[Execution, ExecutionOutput]
"""An execution as it ended, with what it wrote."""


class ExecutionService:
    """All executions of one server."""

    def __init__(
        self,
        executions: ExecutionRepository,
        acceptance: Acceptance,
        registry: Registry,
        watching: Watching,
        logs: LogService,
        engines: Engines,
        backlog: Backlog,
    ) -> None:
        self._executions = executions
        self._acceptance = acceptance
        self._registry = registry
        self._watching = watching
        self._logs = logs
        self._engines = engines
        self._backlog = backlog

    async def execute(self, request: ExecutionRequest, *, time_left: timedelta | None) -> Ended:
        """Execute a function and return its execution as it ended, with what it wrote.

        Cancelling this coroutine cancels the execution.
        """
        not_after = _not_after(time_left)
        return await self._ended(await self._acceptance.execute(request, not_after), not_after)

    def begin(self, request: ExecutionRequest, *, time_left: timedelta | None) -> Begun | None:
        """Have an idle instance execute at once; None: it takes more, use `execute`.

        Its `end` must be waited for, or `leave` called.
        """
        return self._acceptance.begin(request, _not_after(time_left))

    async def go_on(self, begun: Begun) -> Ended:
        """Wait for the end of what set its `end` to None: it takes longer."""
        return await self._ended(await self._acceptance.go_on(begun), begun.not_after)

    def leave(self, begun: Begun) -> None:
        """Stop what has begun, unless it is over."""
        self._acceptance.leave(begun)

    async def _ended(self, accepted: Finished | Accepted, not_after: datetime | None) -> Ended:
        if isinstance(accepted, Finished):
            return accepted.execution, accepted.output
        name, active, _ = accepted
        if active is None:  # of an earlier call: it has ended, or waits in the store
            execution = await self._watching.end(name)
        else:
            with active.caller(not_after):
                execution = await active.end()
        return execution, await self.output(execution)

    async def start(self, request: ExecutionRequest) -> Execution:
        """Start an execution that is bound to no caller; return it once it is stored."""
        if not request.background:
            request = replace(request, background=True)
        name, active, stored = await self._acceptance.accept(request, disconnect_grace=None)
        if stored is not None:
            return stored
        return active.journal.snapshot() if active else await self.get(name)

    async def stream(
        self, request: ExecutionRequest, *, cancel_after: timedelta | None, heartbeat: timedelta
    ) -> AsyncGenerator[ExecutionName | Event | Heartbeat]:
        """Start an execution; yield its name, then its journal from the first event to the result.

        `cancel_after`: how long it lives once nobody reads this or a `watch`; None: for ever.
        """
        grace = None if cancel_after is None else cancel_after.total_seconds()
        name, active, _ = await self._acceptance.accept(request, disconnect_grace=grace)
        with active.caller() if active else nullcontext():
            yield name
            async with aclosing(self.watch(name, after=0, heartbeat=heartbeat)) as events:
                async for event in events:
                    yield event

    def watch(
        self, name: ExecutionName, *, after: int, heartbeat: timedelta
    ) -> AsyncGenerator[Event | Heartbeat]:
        """Yield the events that follow `after`, up to the result, and heartbeats in silence.

        NotFoundError. OutOfRangeError when `after` is past the end.
        """
        return self._watching.watch(name, after=after, heartbeat=heartbeat)

    def logs(
        self, target: ExecutionName | FunctionName, query: LogQuery
    ) -> AsyncGenerator[LogEntry]:
        """Yield what executions wrote, the oldest first. NotFoundError."""
        return self._logs.read(target, query)

    async def attach(self, request: ExecutionRequest) -> AttachSession:
        """Start an execution whose stdin the caller writes."""
        name, active, _ = await self._acceptance.accept(request, disconnect_grace=ATTACH_GRACE)
        return AttachSession(name, active, self._engines, self._watching)

    async def resume(self, name: ExecutionName, after: int) -> AttachSession:
        """Go on with an attached execution after a cut."""
        execution = await self.get(name)
        if not execution.interactive:
            raise FailedPreconditionError(
                f"execution '{name}' takes no input from callers: follow it with WatchExecution",
                reason="NOT_INTERACTIVE",
            )
        active = self._registry.get(name)
        return AttachSession(name, active, self._engines, self._watching, after=after)

    async def get(self, name: ExecutionName) -> Execution:
        """Return an execution. NotFoundError."""
        active = self._registry.get(name)
        if active is None:
            return await self._executions.get(name)
        return active.journal.snapshot()

    async def attempts(self, execution: Execution) -> Sequence[Attempt]:
        """Return the attempts that came before the one an execution shows."""
        return await self._executions.attempts(execution.name) if execution.attempt > 1 else ()

    async def output(self, execution: Execution) -> ExecutionOutput:
        """Return what an ended execution wrote, as far as it fits in an answer."""
        if not execution.state.final:
            return ExecutionOutput(b"", truncated=False, log_tail=b"")
        output = tail = b""
        if execution.stdout_bytes:
            output = await self._executions.output(
                execution.name, OutputStream.STDOUT, INLINE_OUTPUT_BYTES
            )
        if execution.stderr_bytes:
            tail = await self._executions.output_tail(
                execution.name, OutputStream.STDERR, LOG_TAIL_BYTES
            )
        truncated = len(output) < execution.stdout_bytes
        return ExecutionOutput(output, truncated=truncated, log_tail=tail)

    async def list(self, query: ExecutionQuery, page: PageRequest) -> Page[Execution]:
        """Return a page of executions."""
        return await self._executions.list(query, page)

    async def wait(self, name: ExecutionName, timeout: timedelta) -> Execution:
        """Wait for the end of an execution; return it as it is then, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                return await self._watching.end(name)
        return await self.get(name)

    async def cancel(self, name: ExecutionName) -> Execution:
        """Tell an execution to stop; one that only waited has then ended."""
        return await self._cancel(name, "it was cancelled")

    async def cancel_all(self, function_uid: str) -> None:
        """Stop all executions of a function, and wait until they have ended."""
        while names := await self._unfinished(function_uid):
            await asyncio.gather(*(self._cancel_and_wait(name) for name in names))

    async def _unfinished(self, function_uid: str) -> Sequence[ExecutionName]:
        """Return executions of a function that have not ended, and are in memory by now."""
        await self._backlog.admit_some(function_uid)
        return [a.name for a in self._registry if a.journal.accepted.function_uid == function_uid]

    async def _cancel_and_wait(self, name: ExecutionName) -> None:
        await self._cancel(name, "its function was deleted")
        await self._watching.end(name)

    async def _cancel(self, name: ExecutionName, why: str) -> Execution:
        while active := self._registry.get(name) or await self._backlog.admit(name):
            waited = not active.journal.started
            active.last_attempt = True
            active.stop(FailureReason.CANCELLED, why)
            if not waited and not active.ending:
                return await active.journal.latest()
            # What ends by itself may have chosen to wait for its next attempt.
            if (execution := await active.end()).state.final:
                return execution
        return await self.get(name)

    async def delete(self, name: ExecutionName) -> None:
        """Delete an execution that has ended, and its journal."""
        if self._registry.get(name) is not None:
            raise FailedPreconditionError(
                f"execution '{name}' has not ended: cancel it with CancelExecution, then wait",
                reason="EXECUTION_UNFINISHED",
            )
        await self._executions.delete(name)


def _not_after(time_left: timedelta | None) -> datetime | None:
    return None if time_left is None else datetime.now(UTC) + time_left
