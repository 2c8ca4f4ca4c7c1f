"""Runs one execution: waits for a place, starts a container, follows it, judges its end.

What an earlier process, or an engine that went away, has left goes on from where it stands. One
task per execution does all of it and alone decides how it ended. The container is removed after the
answer, whatever happens in between.
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
    LeaseLostError,
    RuntimeUnavailableError,
    SkybridgeError,
    StaleContainerError,
    StorageError,
)
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
)
from skybridge_server.models.journal import GapReason
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerState,
    ContainerStatus,
    Exit,
)
from skybridge_server.services import labels, outcome
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.adoption import replay, why_lost
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.engines import Engines
from skybridge_server.services.lease import taken
from skybridge_server.services.maker import Maker
from skybridge_server.services.outcome import Outcome
from skybridge_server.services.retries import Retries
from skybridge_server.services.supervisor import OutputSource, Supervisor
from skybridge_server.services.time_limit import seconds, time_left, time_limit

T = TypeVar("T")

STORE_RETRY = 1.0
"""Seconds before the end is stored again after the store refused it."""

CALLER_CUT_OFF = "the server was restarted before the execution ran, and its caller was cut off"

log = structlog.get_logger(__name__)


class StoppedError(Exception):
    """The execution was told to stop before its process ran."""


class Runner:
    """Runs one attempt of an execution to its end, or goes on with one that was left behind."""

    def __init__(
        self,
        active: ActiveExecution,
        engines: Engines,
        executions: ExecutionRepository,
        retries: Retries,
        ahead: Ahead,
        maker: Maker,
        server_id: str,
    ) -> None:
        self._active = active
        self._engines = engines
        self._runtime = engines.get(active.revision.spec.runtime)
        self._executions = executions
        self._retries = retries
        self._ahead = ahead
        self._maker = maker
        self._server_id = server_id
        self._spec = active.revision.spec
        self._supervisor = Supervisor(active, self._runtime)
        self._timings = active.journal.execution.timings
        self._engine_error: RuntimeUnavailableError | None = None
        self._give_up_at: float | None = None
        self._feeding: asyncio.Task[None] | None = None

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
            ending = Outcome(gap=GapReason.RUNTIME_UNAVAILABLE if self._ran else None)
        except RuntimeUnavailableError as error:
            ending = outcome.of_lost_engine(error) if self._ran else outcome.of_error(error)
        except SkybridgeError as error:
            ending = outcome.of_error(error)
        except Exception:
            log.exception("execution broke", execution=str(self._active.name))
            ending = outcome.failed(FailureReason.INTERNAL, "internal error of the server")
        if self._active.stop_reason is not None:
            return replace(ending, failure=self._active.stop_reason)
        return ending

    @property
    def _ran(self) -> bool:
        return self._active.journal.execution.start_time is not None

    async def _run_phases(self) -> Outcome:
        if not self._active.journal.started:
            if self._active.left_behind and self._active.journal.execution.interactive:
                return outcome.failed(FailureReason.LOST, CALLER_CUT_OFF)
            await self._wait_for_place()
        work = self._resume if self._active.left_behind else self._begin
        while True:
            try:
                return await work()
            except RuntimeUnavailableError as error:
                self._engine_error = error
                await self._until_engine_is_back(error)
                work = self._resume

    async def _begin(self) -> Outcome:
        """Run it in a container of its own, from the start."""
        active, loop = self._active, asyncio.get_running_loop()
        if not active.journal.started:
            lease = taken(active, self._server_id)
            active.journal.change_state(ExecutionState.STARTING, lease=lease)
        began = loop.time()
        input_ = await self._input()
        attachment = await self._start(input_)
        try:
            took = timedelta(seconds=loop.time() - began)
            self._timings = replace(self._timings, start=took)
            self._note_start(datetime.now(UTC))
            active.attachment = attachment
            active.attached.ring()
            return await self._follow(attachment)
        finally:
            await self._let_go(attachment)

    async def _resume(self) -> Outcome:
        """Go on with what an earlier process, or an engine that went away, has left."""
        container = await self._find()
        if container is not None and container.status is not ContainerStatus.CREATED:
            return await self._adopt(container)
        if self._ran:
            return self._lost("its container is gone")
        if self._active.stopping.is_set():
            raise StoppedError
        if container is not None:
            self._active.container_id = container.id
        if self._active.container_id:  # one that was taken may not have its name yet
            await self._runtime.containers.remove(self._active.container_id)
            self._active.container_id = ""
        return await self._begin()

    async def _adopt(self, container: ContainerState) -> Outcome:
        """Follow a container that was started before, or collect what it has left."""
        active = self._active
        active.container_id = container.id
        if not active.journal.started:
            return self._lost("it has a container that has run", container.exit)
        witnessed = container.witnessed
        if witnessed is None:
            witnessed = self._engine_error is None
        execution = active.journal.execution
        input_ = await self._executions.get_input(execution.name)
        if reason := why_lost(execution, container, input_, witnessed=witnessed):
            return self._lost(reason, container.exit)
        if not self._ran:
            self._note_start(container.start_time or datetime.now(UTC))
        log.info("execution adopted", execution=str(active.name), status=container.status.name)
        containers = self._runtime.containers
        source = await replay(active, containers, self._executions, witnessed=witnessed)
        ending = await self._follow(source)
        if source.doubtful and ending.gap is None:
            return replace(ending, gap=GapReason.RUNTIME_UNAVAILABLE, gap_in=source.doubtful)
        return ending

    async def _find(self) -> ContainerState | None:
        # By name: whoever has made it may not have lived to tell its id.
        name = labels.container_name(self._active.journal.execution)
        try:
            return await self._runtime.containers.inspect(name)
        except ContainerGoneError:
            return None

    def _lost(self, reason: str, ended: Exit | None = None) -> Outcome:
        if self._engine_error is not None:
            message = f"the container engine went away while the function ran: {reason}"
            return outcome.of_lost(message, ended, FailureReason.RUNTIME_UNAVAILABLE)
        state = self._active.journal.execution.state.name
        message = f"the server went away while the execution was {state}: {reason}"
        return outcome.of_lost(message, ended)

    def _note_start(self, start_time: datetime) -> None:
        """Note that its process runs, and whether it has been given all of its input."""
        journal, timings = self._active.journal, self._timings
        if self._active.stop_reason is None:
            journal.change_state(ExecutionState.RUNNING, start_time=start_time, timings=timings)
        else:
            journal.note(start_time=start_time, timings=timings)

    async def _follow(self, output: OutputSource) -> Outcome:
        ending = await self._supervisor.follow(output)
        start_time = self._active.journal.execution.start_time
        ran = datetime.now(UTC) - start_time if start_time else timedelta(0)
        self._timings = replace(self._timings, run=max(ran, timedelta(0)))
        return ending

    async def _feed(self, attachment: Attachment, input_: bytes | None) -> None:
        """Write the input to stdin, then close it; a function need not read it."""
        if input_ is None:
            return  # callers do
        with contextlib.suppress(OSError, SkybridgeError):
            if input_:
                await attachment.write(input_)
            await attachment.close_input()
            if attachment.outlives_us:
                self._active.journal.note(input_given=True)

    async def _let_go(self, attachment: Attachment) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.gather(self._feeding, return_exceptions=True)
        await attachment.close()

    # -- phases ---------------------------------------------------------------------------------

    @property
    def _queue_time_left(self) -> timedelta:
        """How long it may go on to wait for a place: some have waited in the store before."""
        if self._active.deadline is None:
            return self._spec.timeouts.queue
        left = self._active.deadline - asyncio.get_running_loop().time()
        return timedelta(seconds=max(left, 0.0))

    async def _wait_for_place(self) -> None:
        limit = self._spec.timeouts.queue
        await self._within(
            self._active.ticket.acquire(),
            self._queue_time_left,
            Failure(
                FailureReason.QUEUE_TIMEOUT,
                f"no place became free within spec.timeouts.queue ({seconds(limit)}): raise it, "
                "or spec.scaling.max_concurrency",
            ),
        )
        if self._active.stopping.is_set():
            raise StoppedError
        await self._within(
            self._engines.until_ready(self._spec.runtime),
            limit,
            Failure(FailureReason.RUNTIME_UNAVAILABLE, "the container engine does not answer"),
        )
        waited = datetime.now(UTC) - self._active.queued_time
        self._timings = replace(self._timings, queue=max(waited, timedelta(0)))

    async def _input(self) -> bytes | None:
        """Return what to write to stdin; None when callers do. Thousands may wait: not with it."""
        execution = self._active.journal.execution
        return None if execution.interactive else await self._executions.get_input(execution.name)

    async def _start(self, input_: bytes | None) -> Attachment:
        limit = self._spec.timeouts.start
        return await self._within(
            self._create_and_start(input_),
            limit,
            Failure(
                FailureReason.START_TIMEOUT,
                f"the container did not start within spec.timeouts.start ({seconds(limit)})",
            ),
        )

    async def _create_and_start(self, input_: bytes | None) -> Attachment:
        active, containers = self._active, self._runtime.containers
        uid = active.journal.execution.function_uid
        active.container_id = self._ahead.take(uid, active.revision)
        while True:
            try:
                if active.container_id:
                    with self._ahead.doubting(uid, active.revision):
                        return await self._start_made_ahead(input_)
                active.container_id = await self._create(input_ or b"")
                return await self._start_container(input_)
            except StaleContainerError as error:
                log.info("container created anew", detail=error.message)
                await containers.remove(active.container_id)
                active.container_id = ""

    async def _start_made_ahead(self, input_: bytes | None) -> Attachment:
        # By its name it is found again; before that, nobody has started it.
        name = labels.container_name(self._active.journal.execution)
        await self._runtime.containers.rename(self._active.container_id, name)
        return await self._start_container(input_)

    async def _start_container(self, input_: bytes | None) -> Attachment:
        containers = self._runtime.containers
        attachment = await containers.attach(self._active.container_id)
        try:
            # What the store has as QUEUED has never run, and nobody else may run it from here on.
            await self._active.journal.flush()
            # The engine keeps it for the process: it gets there even if we do not see the start.
            self._feeding = asyncio.create_task(self._feed(attachment, input_))
            await containers.start(self._active.container_id)
        except BaseException:
            await self._let_go(attachment)
            raise
        return attachment

    async def _within(self, work: Coroutine[Any, Any, T], limit: timedelta, late: Failure) -> T:
        """Do what comes before the process runs; a stop or the limit ends it."""
        timer = asyncio.get_running_loop().call_later(
            limit.total_seconds(), self._active.stop, late.reason, late.message
        )
        try:
            return await self._unless_stopped(work)
        finally:
            timer.cancel()

    async def _until_engine_is_back(self, error: RuntimeUnavailableError) -> None:
        """Wait until the engine answers again, or raise its error after the execution's time."""
        loop = asyncio.get_running_loop()
        if self._give_up_at is None:
            self._give_up_at = loop.time() + time_left(self._active).total_seconds()
        log.warning("engine went away", execution=str(self._active.name), detail=error.message)
        try:
            async with asyncio.timeout_at(self._give_up_at):
                await self._unless_stopped(
                    self._engines.until_ready(self._spec.runtime, doubt=True)
                )
        except TimeoutError:
            raise error from None

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something unless the execution is told to stop."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._active.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StoppedError
            return task.result()
        finally:
            for each in (task, stopping):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each

    async def _create(self, input_: bytes) -> str:
        execution = self._active.journal.execution
        deadline = datetime.now(UTC) + time_limit(self._active).length
        return await self._maker.create(
            self._active.revision,
            labels.container_name(execution),
            stdio.environment(self._spec, execution, input_, deadline),
            labels.of_execution(self._server_id, execution),
        )

    # -- the end --------------------------------------------------------------------------------

    async def _settle(self, ending: Outcome) -> None:
        """Store the end; as long as the store refuses it, the execution has not ended."""
        ended = self._ended_execution(ending)
        while True:
            try:
                await self._store_end(ended, ending)
            except LeaseLostError:
                raise  # it is no longer ours to end
            except StorageError as error:
                log.warning("end not stored", execution=str(ended.name), detail=error.message)
                # That may take long, and the process may still run.
                await self.clean_up()
                await asyncio.sleep(STORE_RETRY)
            else:
                return

    async def _store_end(self, ended: Execution, ending: Outcome) -> None:
        journal = self._active.journal
        waiting = None
        if not self._active.last_attempt:
            waiting = self._retries.next_attempt(ended, self._spec.retry_policy)
        if waiting is None:
            follows = self._retries.aftermath(ended, self._spec)
            await journal.end(ended, gap_reason=ending.gap, gap_in=ending.gap_in, aftermath=follows)
            return
        await self.clean_up()  # the next attempt is another container of the same execution
        await journal.end_attempt(ended, waiting, gap_reason=ending.gap, gap_in=ending.gap_in)

    def _ended_execution(self, ending: Outcome) -> Execution:
        execution, usage = self._active.journal.execution, self._supervisor.usage
        now = datetime.now(UTC)
        return replace(
            execution,
            state=ending.state,
            failure=ending.failure,
            exit_code=ending.exit_code,
            cold_start=self._ran,
            timings=replace(self._timings, total=max(now - execution.ready_time, timedelta(0))),
            usage=replace(usage, oom_killed=ending.oom_killed or usage.oom_killed),
            end_time=now,
        )

    async def clean_up(self) -> None:
        """Remove the container, if one was made."""
        if self._active.container_id:
            # What fails here is found again by its label, when the engine is back.
            with contextlib.suppress(SkybridgeError):
                await self._runtime.containers.remove(self._active.container_id)
                self._active.container_id = ""
            self._ahead.fill()
