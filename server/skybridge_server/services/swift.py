"""Executes on an idle instance at once.

Most executions on an instance are over within milliseconds. Such a one needs no queue, no task and
no journal that others could follow: nobody hears of it before its answer, and it is stored whole,
in one write. What takes longer, writes much, or breaks, is taken over and goes on as any other; see
docs/decisions/0018-warm-executions-in-the-task-of-their-call.md, and 0023 for where they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile

import structlog

from skybridge_server.contracts.base import Answer, Call
from skybridge_server.errors import InstanceError, StorageError
from skybridge_server.models.executions import Envelope, Execution, ExecutionState, Timings
from skybridge_server.models.functions import KIB, Durability, Function, Revision
from skybridge_server.models.journal import Output, OutputStream
from skybridge_server.models.names import ExecutionName, new_id
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services import idempotency
from skybridge_server.services.begun import Batch, Begun, Finished
from skybridge_server.services.journal import LOG_TAIL_BYTES
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.requests import ExecutionOutput, ExecutionRequest
from skybridge_server.services.slots import Ticket
from skybridge_server.services.telemetry import Telemetry

SWIFT_SECONDS = 0.25
"""How long an execution that nobody has heard of may run without a record."""
ONE_LOOK_SECONDS = 0.001
"""Enough for the loop to handle what has come in the meantime."""
CHUNK_BYTES = 64 * KIB

_ZERO = timedelta(0)
_SWIFT = timedelta(seconds=SWIFT_SECONDS)

log = structlog.get_logger(__name__)


class Swift:
    """Has idle instances execute at once. For the event loop alone.

    An execution is concluded where its answer comes in, and its caller wakes up once, when it is
    stored: each task that is woken costs as much as a part of the work.
    """

    def __init__(self, executions: ExecutionRepository, telemetry: Telemetry) -> None:
        self._executions = executions
        self._telemetry = telemetry
        self._under_way: dict[Begun, float] = {}
        """Those without an answer, the oldest first, with the time until which it is waited for."""
        self._sweeping = False
        self.on_refusal: Callable[[], None] = lambda: None
        """Called when the store does not take what has ended."""

    def begin(
        self,
        request: ExecutionRequest,
        function: Function,
        revision: Revision,
        ticket: Ticket,
        not_after: datetime | None,
    ) -> Begun | None:
        """Have the instance of a ticket execute; None: it has to be connected to, or takes longer.

        What has begun sets its `end`.
        """
        instance, now = _instance_of(ticket), datetime.now(UTC)
        limit = _time_limit(request, revision, not_after, now)
        if instance.frozen or not instance.log.known or limit < _SWIFT:
            return None
        name = ExecutionName(request.function.namespace, new_id())
        try:
            exchange = instance.conversation.begin(_call(name, request, revision, now + limit))
        except (InstanceError, OSError):
            return None
        if exchange is None:
            return None
        loop = asyncio.get_running_loop()
        moment, end = loop.time(), loop.create_future()
        begun = Begun(
            name,
            request,
            function,
            revision,
            ticket,
            instance,
            now,
            moment,
            not_after,
            exchange,
            end,
        )
        if revision.spec.scaling.instance_concurrency == 1:
            instance.log.belongs_to(begun.add_log)
        self._wait_a_while(begun)
        exchange.on_whole(partial(self._answered, begun))
        return begun

    async def connect(self, ticket: Ticket) -> bool:
        """Get ready to `begin`; False: who waits for the instance finds out why it cannot."""
        instance = _instance_of(ticket)
        if instance.frozen:
            return False
        try:
            await instance.conversation.connect()
        except (InstanceError, OSError):
            return False
        return True

    async def settle(self, begun: Begun) -> Finished | None:
        """Wait for the log of what has ended, and until it is stored; None: it has not ended well.

        Then it has to be taken over, as if this was cancelled before it was `over`.
        """
        output = _output_of(begun)
        if output is None:
            return None
        await begun.instance.log.settle()
        begun.end = asyncio.get_running_loop().create_future()
        self._conclude(begun, output)
        return await begun.end

    def _answered(self, begun: Begun) -> None:
        """Hear that the answer is there, or that it gets a large one."""
        self._under_way.pop(begun, None)
        if begun.end.done():  # nobody waits any more
            return
        output = _output_of(begun)
        if output is None or not begun.instance.log.settle_at_once():
            begun.end.set_result(None)
            return
        try:
            self._conclude(begun, output)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller, not the connection
            begun.end.set_exception(error)

    def _conclude(self, begun: Begun, output: bytes) -> None:
        """Free the instance, and store what has ended. StorageError."""
        begun.over = True
        answer = begun.exchange.end()
        begun.instance.log.belongs_to(None)
        if not answer.reusable:
            begun.instance.retire(polite=True)
        begun.ticket.release()
        log_ = b"".join(begun.log)
        written = _pieces(OutputStream.STDERR, log_) + _pieces(OutputStream.STDOUT, output)
        execution = _ended(begun, answer, len(written), stdout=len(output), stderr=len(log_))
        tail = log_[-LOG_TAIL_BYTES:]
        self._store(
            begun, execution, written, ExecutionOutput(output, truncated=False, log_tail=tail)
        )

    def _store(
        self,
        begun: Begun,
        execution: Execution,
        written: Sequence[Output],
        output: ExecutionOutput,
    ) -> None:
        request = begun.request
        deferred = begun.revision.spec.durability is Durability.DEFERRED
        try:
            stored = self._executions.add_ended(
                execution,
                request.input,
                written,
                idempotency.record(request.key, resource=execution.name.execution),
                patient=deferred or _others_follow(begun.batch),
            )
        except StorageError:
            self.on_refusal()
            raise
        begun.finished = finished = Finished(execution, output, stored)
        if deferred:
            stored.add_done_callback(_note_refusal)
            self._telemetry.ended(execution)
            begun.end.set_result(finished)
        else:
            stored.add_done_callback(partial(self._stored, begun, finished))

    def _stored(self, begun: Begun, finished: Finished, stored: asyncio.Future[None]) -> None:
        error = stored.exception()
        if error is None:
            self._telemetry.ended(finished.execution)
        else:
            self.on_refusal()
        if begun.end.done():
            return  # its caller has left
        if error is None:
            begun.end.set_result(finished)
        else:
            begun.end.set_exception(error)

    # -- patience -------------------------------------------------------------------------------

    def _wait_a_while(self, begun: Begun) -> None:
        """End the wait for an answer that does not come in time. One timer serves all of them."""
        self._under_way[begun] = begun.moment + SWIFT_SECONDS
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWIFT_SECONDS, self._sweep)

    def _sweep(self) -> None:
        loop, under_way = asyncio.get_running_loop(), self._under_way
        now = loop.time() + 0.001  # timers may come a little early
        for begun in [*takewhile(lambda begun: under_way[begun] <= now, under_way)]:
            del under_way[begun]
            # On a busy loop its answer may lie in the socket: one more look at what has come.
            loop.call_later(ONE_LOOK_SECONDS, _lose_patience, begun)
        following = next(iter(under_way.values()), None)
        self._sweeping = following is not None
        if following is not None:
            loop.call_at(following, self._sweep)


def _lose_patience(begun: Begun) -> None:
    if not (begun.over or begun.end.done()):
        begun.end.set_result(None)


def _others_follow(batch: Batch | None) -> bool:
    """Count an end, and tell whether others of its batch will come after it."""
    if batch is None:
        return False
    batch.left -= 1
    return batch.left > 0


def _instance_of(ticket: Ticket) -> Instance:
    assert isinstance(ticket.seat, Instance)  # noqa: S101 - it comes with the turn
    return ticket.seat


def _time_limit(
    request: ExecutionRequest, revision: Revision, not_after: datetime | None, now: datetime
) -> timedelta:
    """Return how long an execution may run that starts now."""
    limit = revision.spec.timeouts.execution
    if request.timeout is not None:
        limit = min(limit, request.timeout)
    return limit if not_after is None else min(limit, not_after - now)


def _output_of(begun: Begun) -> bytes | None:
    """Return what it wrote to stdout, if it has ended well, with no more output than is kept."""
    collected = begun.exchange.collected
    if collected is None:
        return None
    output, most = b"".join(collected), begun.revision.spec.resources.output_bytes
    fits = len(output) <= most and (not begun.log or sum(map(len, begun.log)) <= most)
    return output if fits else None


def _call(
    name: ExecutionName, request: ExecutionRequest, revision: Revision, deadline: datetime
) -> Call:
    return Call(
        execution=name.execution,
        function=str(request.function),
        revision=revision.name.number,
        input=request.input,
        content_type=request.envelope.content_type,
        headers=request.envelope.headers,
        deadline=deadline,
        traceparent=request.traceparent,
    )


def _pieces(stream: OutputStream, data: bytes) -> list[Output]:
    """Return what was written to a stream as the journal has it."""
    return [
        Output(stream, offset, data[offset : offset + CHUNK_BYTES])
        for offset in range(0, len(data), CHUNK_BYTES)
    ]


def _ended(begun: Begun, answer: Answer, pieces: int, *, stdout: int, stderr: int) -> Execution:
    request, failure = begun.request, answer.failure
    ran = timedelta(seconds=asyncio.get_running_loop().time() - begun.moment)
    return Execution(
        name=begun.name,
        function=begun.function.name,
        function_uid=begun.function.uid,
        revision=begun.revision.name.number,
        create_time=begun.start_time,
        state=failure.reason.state if failure else ExecutionState.SUCCEEDED,
        failure=failure,
        timeout=request.timeout,
        traceparent=request.traceparent,
        stdout_bytes=stdout,
        stderr_bytes=stderr,
        last_sequence=pieces + 3,  # QUEUED, RUNNING and the result
        labels=request.labels,
        timings=Timings(queue=_ZERO, run=ran, total=ran),
        start_time=begun.start_time,
        end_time=begun.start_time + ran,
        instance=begun.instance.name.instance,
        asked=request.envelope,
        answered=Envelope(answer.content_type, answer.headers, answer.status),
    )


def _note_refusal(stored: asyncio.Future[None]) -> None:
    if not stored.cancelled() and (error := stored.exception()) is not None:
        log.warning("execution that was answered is not stored", detail=str(error))
