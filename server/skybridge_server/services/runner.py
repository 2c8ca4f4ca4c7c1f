"""Runs one execution: waits for a place, starts a container, follows it, judges its end.

One task per execution does all of it and alone decides how it ended. The container is removed
after the answer, whatever happens in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog

from skybridge_server.contracts import stdio
from skybridge_server.errors import (
    ContainerGoneError,
    RuntimeUnavailableError,
    SkybridgeError,
    StorageError,
)
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
    Usage,
)
from skybridge_server.models.journal import GapReason, OutputStream
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerSpec,
    Exit,
    Runtime,
    SupportsUsage,
)
from skybridge_server.services import labels, outcome
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.outcome import Outcome

T = TypeVar("T")

KILL_PATIENCE = 10.0
"""Seconds that a container may take to end after SIGKILL before we stop waiting for it."""
FIRST_USAGE_PAUSE = 0.02
USAGE_INTERVAL = 0.5
STORE_RETRY = 1.0
KILLED = 128 + 9
REMOVAL_PATIENCE = 0.25
"""Seconds between a kill and the removal of its container, when both come from outside."""

log = structlog.get_logger(__name__)


class StoppedError(Exception):
    """The execution was told to stop before its process ran."""


class Runner:
    """Runs one execution to its end."""

    def __init__(self, active: ActiveExecution, runtime: Runtime, server_id: str) -> None:
        self._active = active
        self._runtime = runtime
        self._server_id = server_id
        self._spec = active.revision.spec
        self._usage = Usage()
        self._timings = Timings()
        self._start_time: datetime | None = None

    async def run(self) -> None:
        """Run the execution and store its end. `clean_up` is still to do, whatever happens."""
        try:
            ending = await self._verdict()
        finally:
            self._active.exited()
            self._active.ticket.release()
            self._active.attached.ring()
        await self._settle(ending)

    async def _verdict(self) -> Outcome:
        try:
            ending = await self._run_phases()
        except StoppedError:
            ending = Outcome()
        except SkybridgeError as error:
            ending = outcome.of_error(error)
        except Exception:
            log.exception("execution broke", execution=str(self._active.name))
            ending = outcome.failed(FailureReason.INTERNAL, "internal error of the server")
        if self._active.stop_reason is not None:
            return replace(ending, failure=self._active.stop_reason)
        return ending

    async def _run_phases(self) -> Outcome:
        active = self._active
        await self._wait_for_place()
        active.journal.change_state(ExecutionState.STARTING)
        began = datetime.now(UTC)
        attachment = await self._start()
        try:
            self._start_time = datetime.now(UTC)
            self._timings = replace(self._timings, start=self._start_time - began)
            if active.stop_reason is None:
                active.journal.change_state(
                    ExecutionState.RUNNING, start_time=self._start_time, timings=self._timings
                )
            active.attachment = attachment
            active.attached.ring()
            ending = await self._follow(attachment)
            self._timings = replace(self._timings, run=datetime.now(UTC) - self._start_time)
            return ending
        finally:
            await attachment.close()

    # -- phases ---------------------------------------------------------------------------------

    async def _wait_for_place(self) -> None:
        await self._within(
            self._active.ticket.acquire(),
            self._spec.timeouts.queue,
            Failure(
                FailureReason.QUEUE_TIMEOUT,
                f"no place became free within spec.timeouts.queue "
                f"({_seconds(self._spec.timeouts.queue)}): raise it, or "
                "spec.scaling.max_concurrency",
            ),
        )
        waited = datetime.now(UTC) - self._active.journal.execution.create_time
        self._timings = replace(self._timings, queue=max(waited, timedelta(0)))

    async def _start(self) -> Attachment:
        return await self._within(
            self._create_and_start(),
            self._spec.timeouts.start,
            Failure(
                FailureReason.START_TIMEOUT,
                f"the container did not start within spec.timeouts.start "
                f"({_seconds(self._spec.timeouts.start)})",
            ),
        )

    async def _create_and_start(self) -> Attachment:
        containers = self._runtime.containers
        self._active.container_id = await containers.create(self._container_spec())
        attachment = await containers.attach(self._active.container_id)
        try:
            await containers.start(self._active.container_id)
        except BaseException:
            await attachment.close()
            raise
        return attachment

    async def _within(self, work: Coroutine[Any, Any, T], limit: timedelta, late: Failure) -> T:
        """Do what comes before the process runs; a stop or the limit ends it."""
        active = self._active
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(active.stopping.wait())
        timer = asyncio.get_running_loop().call_later(
            limit.total_seconds(), active.stop, late.reason, late.message
        )
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StoppedError
            return task.result()
        finally:
            timer.cancel()
            for each in (task, stopping):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each

    def _container_spec(self) -> ContainerSpec:
        execution, spec = self._active.journal.execution, self._spec
        deadline = datetime.now(UTC) + self._time_limit().length
        return ContainerSpec(
            name=f"skybridge-{execution.function.function}-{execution.name.execution}",
            image_id=self._active.revision.image_id,
            command=spec.command,
            args=spec.args,
            env=stdio.environment(spec, execution, self._active.input, deadline),
            labels=labels.of_execution(self._server_id, execution),
            working_dir=spec.working_dir,
            resources=spec.resources,
            network=spec.network,
            isolation=spec.isolation,
            stop_grace=spec.timeouts.shutdown_grace,
        )

    def _time_limit(self) -> _TimeLimit:
        """Return how long the process may run, and what it means when it runs longer."""
        asked = self._active.journal.execution.timeout
        length = min(self._spec.timeouts.execution, asked or timedelta.max)
        limit = _TimeLimit(
            length,
            FailureReason.EXECUTION_TIMEOUT,
            f"it ran longer than {_seconds(length)}: raise "
            + ("options.timeout" if asked == length else "spec.timeouts.execution"),
        )
        if self._active.not_after is not None:
            left = max(self._active.not_after - datetime.now(UTC), timedelta(0))
            if left < length:
                return _TimeLimit(left, FailureReason.DEADLINE, "the caller's deadline passed")
        return limit

    # -- following the process ------------------------------------------------------------------

    async def _follow(self, attachment: Attachment) -> Outcome:
        limit = self._time_limit()
        timer = asyncio.get_running_loop().call_later(
            limit.length.total_seconds(), self._active.stop, limit.reason, limit.message
        )
        helpers = [
            asyncio.create_task(self._terminate_when_told()),
            asyncio.create_task(self._observe_usage()),
        ]
        if not self._active.journal.execution.interactive:
            helpers.append(asyncio.create_task(self._feed(attachment)))
        try:
            return await self._until_exit(attachment, helpers[0])
        finally:
            timer.cancel()
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _until_exit(self, attachment: Attachment, stopper: asyncio.Task[None]) -> Outcome:
        """Follow the process to its end; give up on it only long after SIGKILL."""
        watching = asyncio.create_task(self._watch(attachment))
        try:
            await asyncio.wait({watching, stopper}, return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                await asyncio.wait({watching}, timeout=KILL_PATIENCE)
            if watching.done():
                return watching.result()
            return Outcome(gap=GapReason.RUNTIME_UNAVAILABLE)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, attachment: Attachment) -> Outcome:
        try:
            await self._collect_output(attachment)
            ended = await self._runtime.containers.wait(self._active.container_id)
        except RuntimeUnavailableError as error:
            return outcome.of_lost_engine(error)
        except StorageError as error:
            return outcome.failed(
                FailureReason.INTERNAL, f"what it wrote could not be stored: {error.message}"
            )
        if self._active.stop_reason is None:
            await self._look_for_outside_hands(ended)
        self._active.exited()
        journal = self._active.journal
        return outcome.of_exit(
            replace(ended, oom_killed=ended.oom_killed or self._usage.oom_killed),
            journal.snapshot(),
            self._spec,
            log_tail=journal.log_tail,
            truncated=journal.output_truncated(OutputStream.STDOUT),
        )

    async def _collect_output(self, attachment: Attachment) -> None:
        async for stream, data in attachment.output():
            await self._active.journal.add_output(stream, data)

    async def _observe_usage(self) -> None:
        """Note what the process uses: its last numbers vanish with it, so looks come early, too."""
        if not isinstance(self._runtime, SupportsUsage):
            return
        pause = FIRST_USAGE_PAUSE
        while True:
            self._note_usage(await self._runtime.usage(self._active.container_id))
            await asyncio.sleep(pause)
            pause = min(2 * pause, USAGE_INTERVAL)

    def _note_usage(self, usage: Usage) -> None:
        self._usage = Usage(
            cpu=usage.cpu or self._usage.cpu,
            peak_memory_bytes=usage.peak_memory_bytes or self._usage.peak_memory_bytes,
            oom_killed=usage.oom_killed or self._usage.oom_killed,
        )

    async def _look_for_outside_hands(self, ended: Exit) -> None:
        """Tell a process that was killed from a container that was removed, or an engine stopped.

        Both kill the process first, so the exit code alone does not tell.
        """
        if ended.code != KILLED or ended.oom_killed or self._usage.oom_killed:
            return
        await asyncio.sleep(REMOVAL_PATIENCE)
        mine = labels.of_execution(self._server_id, self._active.journal.execution)
        if not await self._runtime.containers.list(mine):
            raise ContainerGoneError(self._active.container_id)

    async def _feed(self, attachment: Attachment) -> None:
        """Write the input to stdin, then close it; a function need not read it."""
        with contextlib.suppress(OSError, SkybridgeError):
            if self._active.input:
                await attachment.write(self._active.input)
            await attachment.close_input()

    async def _terminate_when_told(self) -> None:
        await self._active.stopping.wait()
        grace = self._spec.timeouts.shutdown_grace.total_seconds()
        if grace > 0:
            await self._signal("SIGTERM")
            await asyncio.sleep(grace)
        await self._signal("SIGKILL")

    async def _signal(self, name: str) -> None:
        with contextlib.suppress(SkybridgeError):
            await self._runtime.containers.signal(self._active.container_id, name)

    # -- the end --------------------------------------------------------------------------------

    async def _settle(self, ending: Outcome) -> None:
        """Store the end; as long as the store refuses it, the execution has not ended."""
        ended = self._ended_execution(ending)
        while True:
            try:
                await self._active.journal.end(ended, gap_reason=ending.gap)
            except StorageError as error:
                log.warning("end not stored", execution=str(ended.name), detail=error.message)
                await asyncio.sleep(STORE_RETRY)
            else:
                return

    def _ended_execution(self, ending: Outcome) -> Execution:
        execution = self._active.journal.execution
        now = datetime.now(UTC)
        oom = ending.oom_killed or self._usage.oom_killed
        return replace(
            execution,
            state=ending.state,
            failure=ending.failure,
            exit_code=ending.exit_code,
            cold_start=self._start_time is not None,
            timings=replace(self._timings, total=max(now - execution.create_time, timedelta(0))),
            usage=replace(self._usage, oom_killed=oom),
            start_time=self._start_time,
            end_time=now,
        )

    async def clean_up(self) -> None:
        """Remove the container, if one was made."""
        if self._active.container_id:
            # What fails here is found again by its label, when the engine is back.
            with contextlib.suppress(SkybridgeError):
                await self._runtime.containers.remove(self._active.container_id)


class _TimeLimit:
    """How long a process may run, and why not longer."""

    def __init__(self, length: timedelta, reason: FailureReason, message: str) -> None:
        self.length = length
        self.reason = reason
        self.message = message


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():g} s"
