"""Runs one execution on an instance: waits for a seat, hands the input over, judges the answer.

The instance is left for others, unless it broke, died, or did not return when it was told to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog

from skybridge_server.contracts.base import Answer, Call, Sink
from skybridge_server.errors import (
    InstanceError,
    InstanceGoneError,
    RuntimeUnavailableError,
    StorageError,
)
from skybridge_server.models.executions import (
    NO_ENVELOPE,
    Envelope,
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Lease,
    Timings,
    Usage,
)
from skybridge_server.models.journal import GapReason, OutputStream
from skybridge_server.services import outcome
from skybridge_server.services.begun import Begun
from skybridge_server.services.lease import taken
from skybridge_server.services.outcome import Outcome
from skybridge_server.services.pool.instances import Ended, Instance
from skybridge_server.services.runner import Runner, StoppedError
from skybridge_server.services.time_limit import seconds, time_limit

DEATH_PATIENCE = 2.0
"""Seconds in which the engine tells how an instance ended that closed its connection."""

log = structlog.get_logger(__name__)

_NOT_CALLED = {ExecutionState.QUEUED, ExecutionState.STARTING}
"""RUNNING is stored before an instance hears of an execution."""
NO_USAGE = Usage()
"""What an execution on a kept instance uses cannot be told from what others do."""


class WarmRunner(Runner):
    """Runs one execution on an instance."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._instance: Instance | None = None
        self._cold = False
        self._answered: Envelope = NO_ENVELOPE
        self._task: asyncio.Task[Any] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._gave_up = False
        self._run_time: timedelta | None = None

    async def _run_phases(self) -> Outcome:
        active = self._active
        if active.begun is not None:
            return await self._go_on(active.begun)
        if active.left_behind and active.journal.state not in _NOT_CALLED:
            return self._lost("its instance is gone")
        if active.ticket.seat is None:  # a turn without one says why there is none
            await self._wait_for_seat()
        input_ = active.input
        active.input = None  # nobody needs it again
        if input_ is None:
            input_ = await self._input() or b""
        instance = await self._reachable()
        self._instance = instance
        if active.stopping.is_set():
            raise StoppedError
        return await self._run_on(instance, input_)

    # -- waiting --------------------------------------------------------------------------------

    async def _wait_for_seat(self) -> None:
        """Wait in the queue until an instance is free, or is started for this execution."""
        active, limits = self._active, self._spec.timeouts
        late = Failure(
            FailureReason.QUEUE_TIMEOUT,
            f"no instance became free within spec.timeouts.queue ({seconds(limits.queue)}): raise "
            "it, or spec.scaling.max_instances, or the server's FAAS_MAX_INSTANCES",
        )
        await self._within(active.ticket.covered.wait(), self._queue_time_left, late)
        self._note_queued()
        if active.ticket.turn.is_set():
            await active.ticket.acquire()
            return
        if not active.journal.started:
            lease = taken(active, self._server_id)
            active.journal.change_state(ExecutionState.STARTING, timings=self._timings, lease=lease)
        # The start has a limit of its own; this one holds if the instance went to another.
        await self._within(active.ticket.acquire(), limits.start + limits.queue, late)
        self._cold = True

    def _note_queued(self) -> None:
        waited = datetime.now(UTC) - self._active.queued_time
        self._timings = Timings(max(waited, timedelta(0)))

    async def _reachable(self) -> Instance:
        """Return the instance of the seat or, if that has died meanwhile, once that of another."""
        instance = await self._seated()
        try:
            await instance.conversation.connect()
        except (InstanceError, OSError) as error:
            # Nothing was sent to it: it has not begun.
            log.info("instance not reached", instance=str(instance.name), detail=str(error))
            instance.retire()
            self._active.ticket.again()
            await self._wait_for_seat()
            instance = await self._seated()
        return instance

    async def _seated(self) -> Instance:
        instance = self._active.ticket.seat
        assert isinstance(instance, Instance)  # noqa: S101 - it comes with the turn
        if instance.frozen:
            await self._thaw(instance)
        return instance

    async def _thaw(self, instance: Instance) -> None:
        try:
            await instance.thaw()
        except BaseException:
            instance.retire()
            raise

    # -- running --------------------------------------------------------------------------------

    async def _run_on(self, instance: Instance, input_: bytes) -> Outcome:
        active, now = self._active, datetime.now(UTC)
        moment = asyncio.get_running_loop().time()
        self._cold = self._cold and instance.fresh
        if self._timings.queue is None:
            self._note_queued()
        if self._cold:
            self._timings = replace(self._timings, start=instance.start, init=instance.init)
        active.journal.change_state(
            ExecutionState.RUNNING,
            start_time=now,
            timings=self._timings,
            instance=instance.name.instance,
            cold_start=self._cold,
            lease=self._lease(),
        )
        # What the store has as QUEUED has never run.
        await active.journal.flush()
        if active.stopping.is_set():
            return Outcome()  # why it was stopped is the failure
        call = self._call(input_, now + time_limit(active).length)
        return await self._attend(instance, partial(instance.conversation.call, call), moment)

    async def _go_on(self, begun: Begun) -> Outcome:
        """Go on with what the instance does already."""
        self._instance = begun.instance
        self._timings = self._active.journal.execution.timings
        for data in begun.log:
            self._active.journal.take_output(OutputStream.STDERR, data)
        if self._active.stopping.is_set():
            self._give_grace()
        return await self._attend(begun.instance, begun.exchange.answer, begun.moment)

    async def _attend(
        self, instance: Instance, answering: Callable[[Sink], Awaitable[Answer]], moment: float
    ) -> Outcome:
        """Stay with an instance until its answer, or until it has had its time.

        `moment`: when it started, by the clock of the loop.
        """
        active, loop = self._active, asyncio.get_running_loop()
        limit = time_limit(active)
        timer = loop.call_at(
            moment + limit.length.total_seconds(), active.stop, limit.reason, limit.message
        )
        self._task = asyncio.current_task()
        active.on_stop = self._give_grace
        try:
            return await self._talk(instance, answering)
        finally:
            active.on_stop = None
            timer.cancel()
            if self._grace is not None:
                self._grace.cancel()
            self._run_time = timedelta(seconds=loop.time() - moment)

    def _lease(self) -> Lease:
        journal = self._active.journal
        return journal.execution.lease if journal.started else taken(self._active, self._server_id)

    async def _talk(
        self, instance: Instance, answering: Callable[[Sink], Awaitable[Answer]]
    ) -> Outcome:
        """Take an answer and judge it; without one the instance is retired."""
        answer: Answer | None = None
        try:
            # What it writes can be of no other execution, if it does but one at a time.
            if self._spec.scaling.instance_concurrency == 1:
                instance.log.belongs_to(self._log)
            answer = await answering(self._take)
            self._active.exited()  # what its log takes is not its time
            await instance.log.settle()
        except asyncio.CancelledError:
            if not self._gave_up or self._task is None:
                raise
            self._task.uncancel()
            return Outcome()  # why it was stopped is the failure
        except InstanceError as error:
            return await self._judge_broken(instance, error)
        except StorageError as error:
            return outcome.of_lost_output(error, GapReason.STORAGE_UNAVAILABLE)
        finally:
            instance.log.belongs_to(None)
            if answer is None or not answer.reusable:
                instance.retire(polite=answer is not None)
        return await self._judge(answer)

    def _call(self, input_: bytes, deadline: datetime) -> Call:
        accepted = self._active.journal.accepted
        return Call(
            execution=accepted.name.execution,
            function=str(accepted.function),
            revision=accepted.revision,
            input=input_,
            content_type=accepted.asked.content_type,
            headers=accepted.asked.headers,
            deadline=deadline,
            traceparent=accepted.traceparent,
        )

    def _take(self, data: bytes) -> Awaitable[None] | None:
        journal = self._active.journal
        return journal.room() if journal.take_output(OutputStream.STDOUT, data) else None

    async def _log(self, data: bytes) -> None:
        await self._active.journal.add_output(OutputStream.STDERR, data)

    # -- stopping it ----------------------------------------------------------------------------

    def _give_grace(self) -> None:
        """Let a function that is to stop return by itself: then its instance can stay."""
        grace = self._spec.timeouts.shutdown_grace.total_seconds()
        self._grace = asyncio.get_running_loop().call_later(grace, self._give_up)

    def _give_up(self) -> None:
        self._gave_up = True
        if self._task is not None:
            self._task.cancel()

    # -- the end --------------------------------------------------------------------------------

    async def _judge(self, answer: Answer) -> Outcome:
        self._answered = Envelope(answer.content_type, answer.headers, answer.status)
        journal = self._active.journal
        self._active.exited()
        try:
            await journal.flush()
        except StorageError as error:
            return outcome.of_lost_output(error)
        return outcome.of_answer(
            answer.failure,
            self._spec,
            written=journal.written(OutputStream.STDOUT),
            truncated=journal.output_truncated(OutputStream.STDOUT),
        )

    async def _judge_broken(self, instance: Instance, error: InstanceError) -> Outcome:
        """Find out from the engine why an instance did not answer."""
        ended: Ended | None = None
        if isinstance(error, InstanceGoneError):
            await asyncio.wait({instance.ended}, timeout=DEATH_PATIENCE)
            ended = instance.ended.result() if instance.ended.done() else None
        if ended is not None and isinstance(ended.error, RuntimeUnavailableError):
            return outcome.of_lost_engine(ended.error)
        if ended is not None and ended.error is not None:
            return outcome.of_error(ended.error)
        log_tail = self._active.journal.log_tail or instance.log.tail
        exit_ = ended.exit if ended else None
        return outcome.of_dead_instance(error, exit_, self._spec, log_tail=log_tail)

    def _ended_execution(self, ending: Outcome) -> Execution:
        execution, now, began = self._active.journal.execution, datetime.now(UTC), self._timings
        total = max(now - execution.ready_time, timedelta(0))
        return replace(
            execution,
            state=ending.state,
            failure=ending.failure,
            exit_code=ending.exit_code,
            cold_start=self._cold,
            timings=Timings(began.queue, began.start, self._run_time, total, began.init),
            usage=Usage(oom_killed=True) if ending.oom_killed else NO_USAGE,
            end_time=now,
            answered=self._answered,
        )
