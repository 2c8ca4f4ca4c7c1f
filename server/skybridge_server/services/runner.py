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
from skybridge_server.errors import SkybridgeError, StaleContainerError, StorageError
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
)
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.runtimes.base import Attachment, ContainerSpec, Runtime
from skybridge_server.services import labels, outcome
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.lease import taken
from skybridge_server.services.outcome import Outcome
from skybridge_server.services.retries import Retries
from skybridge_server.services.supervisor import Supervisor
from skybridge_server.services.time_limit import seconds, time_limit

T = TypeVar("T")

STORE_RETRY = 1.0
"""Seconds before the end is stored again after the store refused it."""

log = structlog.get_logger(__name__)


class StoppedError(Exception):
    """The execution was told to stop before its process ran."""


class Runner:
    """Runs one attempt of an execution to its end."""

    def __init__(
        self,
        active: ActiveExecution,
        runtime: Runtime,
        executions: ExecutionRepository,
        retries: Retries,
        server_id: str,
    ) -> None:
        self._active = active
        self._runtime = runtime
        self._executions = executions
        self._retries = retries
        self._server_id = server_id
        self._spec = active.revision.spec
        self._supervisor = Supervisor(active, runtime, server_id)
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
        lease = taken(active, self._server_id)
        active.journal.change_state(ExecutionState.STARTING, lease=lease)
        loop = asyncio.get_running_loop()
        began = loop.time()
        input_ = await self._input()
        attachment = await self._start(input_ or b"")
        try:
            started = loop.time()
            self._start_time = datetime.now(UTC)
            self._timings = replace(self._timings, start=timedelta(seconds=started - began))
            if active.stop_reason is None:
                active.journal.change_state(
                    ExecutionState.RUNNING, start_time=self._start_time, timings=self._timings
                )
            active.attachment = attachment
            active.attached.ring()
            ending = await self._supervisor.follow(attachment, input_)
            self._timings = replace(self._timings, run=timedelta(seconds=loop.time() - started))
            return ending
        finally:
            await attachment.close()

    # -- phases ---------------------------------------------------------------------------------

    async def _wait_for_place(self) -> None:
        limit = self._spec.timeouts.queue
        await self._within(
            self._active.ticket.acquire(),
            limit,
            Failure(
                FailureReason.QUEUE_TIMEOUT,
                f"no place became free within spec.timeouts.queue ({seconds(limit)}): raise it, "
                "or spec.scaling.max_concurrency",
            ),
        )
        if self._active.stopping.is_set():
            raise StoppedError
        waited = datetime.now(UTC) - self._active.queued_time
        self._timings = replace(self._timings, queue=max(waited, timedelta(0)))

    async def _input(self) -> bytes | None:
        """Return what to write to stdin; None when callers do. Thousands may wait: not with it."""
        execution = self._active.journal.execution
        return None if execution.interactive else await self._executions.get_input(execution.name)

    async def _start(self, input_: bytes) -> Attachment:
        limit = self._spec.timeouts.start
        return await self._within(
            self._create_and_start(input_),
            limit,
            Failure(
                FailureReason.START_TIMEOUT,
                f"the container did not start within spec.timeouts.start ({seconds(limit)})",
            ),
        )

    async def _create_and_start(self, input_: bytes) -> Attachment:
        while True:
            try:
                return await self._try_to_start(input_)
            except StaleContainerError as error:
                log.info("container created anew", detail=error.message)
                await self._runtime.containers.remove(self._active.container_id)

    async def _try_to_start(self, input_: bytes) -> Attachment:
        containers = self._runtime.containers
        self._active.container_id = await containers.create(self._container_spec(input_))
        attachment = await containers.attach(self._active.container_id)
        try:
            # What the store has as QUEUED has never run, and nobody else may run it from here on.
            await self._active.journal.flush()
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

    def _container_spec(self, input_: bytes) -> ContainerSpec:
        execution, spec = self._active.journal.execution, self._spec
        deadline = datetime.now(UTC) + time_limit(self._active).length
        return ContainerSpec(
            name=_container_name(execution),
            image_id=self._active.revision.image_id,
            command=spec.command,
            args=spec.args,
            env=stdio.environment(spec, execution, input_, deadline),
            labels=labels.of_execution(self._server_id, execution),
            working_dir=spec.working_dir,
            resources=spec.resources,
            network=spec.network,
            isolation=spec.isolation,
            stop_grace=spec.timeouts.shutdown_grace,
        )

    # -- the end --------------------------------------------------------------------------------

    async def _settle(self, ending: Outcome) -> None:
        """Store the end; as long as the store refuses it, the execution has not ended."""
        ended = self._ended_execution(ending)
        while True:
            try:
                await self._store_end(ended, ending)
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
            await journal.end(ended, gap_reason=ending.gap)
            return
        await self.clean_up()  # the next attempt is another container of the same execution
        await journal.end_attempt(ended, waiting, gap_reason=ending.gap)

    def _ended_execution(self, ending: Outcome) -> Execution:
        execution, usage = self._active.journal.execution, self._supervisor.usage
        now = datetime.now(UTC)
        return replace(
            execution,
            state=ending.state,
            failure=ending.failure,
            exit_code=ending.exit_code,
            cold_start=self._start_time is not None,
            timings=replace(self._timings, total=max(now - execution.ready_time, timedelta(0))),
            usage=replace(usage, oom_killed=ending.oom_killed or usage.oom_killed),
            start_time=self._start_time,
            end_time=now,
        )

    async def clean_up(self) -> None:
        """Remove the container, if one was made."""
        if self._active.container_id:
            # What fails here is found again by its label, when the engine is back.
            with contextlib.suppress(SkybridgeError):
                await self._runtime.containers.remove(self._active.container_id)
                self._active.container_id = ""


def _container_name(execution: Execution) -> str:
    """Return a name that no container of an earlier attempt has, should one be left."""
    name = f"skybridge-{execution.function.function}-{execution.name.execution}"
    return name if execution.attempt == 1 else f"{name}-{execution.attempt}"
