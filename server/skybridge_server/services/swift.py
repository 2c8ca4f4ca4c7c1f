"""Executes on an idle instance at once, in the task of the caller.

Most executions on an instance are over within milliseconds. Such a one needs no queue, no task and
no journal that others could follow: nobody hears of it before its answer, and it is stored whole,
in one write. What takes longer, writes much, or breaks, is taken over and goes on as any other; see
docs/decisions/0018-warm-executions-in-the-task-of-their-call.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from skybridge_server.contracts.base import Answer, Call
from skybridge_server.errors import InstanceError
from skybridge_server.models.executions import Envelope, Execution, ExecutionState, Timings
from skybridge_server.models.functions import KIB, Durability, Function, Revision
from skybridge_server.models.journal import Output, OutputStream
from skybridge_server.models.names import ExecutionName, new_id
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.services import idempotency
from skybridge_server.services.begun import Begun
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

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """An execution that has ended, with what it wrote."""

    execution: Execution
    output: ExecutionOutput
    stored: asyncio.Future[None]
    """Done once it is on disk, which an answer need not wait for where durability is DEFERRED."""


class Swift:
    """Has idle instances execute at once. For the event loop alone."""

    def __init__(self, executions: ExecutionRepository, telemetry: Telemetry) -> None:
        self._executions = executions
        self._telemetry = telemetry
        self._ends: deque[tuple[float, asyncio.Future[None]]] = deque()
        """What is waited for, the oldest first, with the time until which it is."""
        self._sweeping = False

    async def begin(
        self,
        request: ExecutionRequest,
        function: Function,
        revision: Revision,
        ticket: Ticket,
        limit: timedelta,
    ) -> Begun | None:
        """Have the instance of a ticket execute; None: that takes longer, and nothing has begun.

        `limit`: how long it may run.
        """
        instance = ticket.seat
        assert isinstance(instance, Instance)  # noqa: S101 - it comes with the turn
        if instance.frozen or not instance.log.known or limit < timedelta(seconds=SWIFT_SECONDS):
            return None
        name = ExecutionName(request.function.namespace, new_id())
        now = datetime.now(UTC)
        call = _call(name, request, revision, now + limit)
        try:
            exchange = instance.conversation.begin(call)
            if exchange is None:
                await instance.conversation.connect()
                exchange = instance.conversation.begin(call)
        except (InstanceError, OSError):
            return None  # who waits for it finds out why
        if exchange is None:
            return None
        moment = asyncio.get_running_loop().time()
        begun = Begun(name, request, function, revision, ticket, instance, now, moment, exchange)
        if revision.spec.scaling.instance_concurrency == 1:
            instance.log.belongs_to(begun.add_log)
        return begun

    async def collect(self, begun: Begun) -> bool:
        """Wait for the end; False: it has to be taken over, as it has if this was cancelled."""
        end = begun.exchange.whole()
        self._wait_a_while(end, begun.moment)
        await end
        if not _is_small(begun):
            return False
        await begun.instance.log.settle()
        return True

    async def conclude(self, begun: Begun) -> Finished:
        """Store what has ended and was collected. StorageError: the store has nothing of it."""
        chunks = begun.exchange.collected
        answer = begun.exchange.end()
        begun.instance.log.belongs_to(None)
        if not answer.reusable:
            begun.instance.retire(polite=True)
        begun.ticket.release()
        return await self._store(begun, answer, b"".join(chunks or ()))

    async def _store(self, begun: Begun, answer: Answer, output: bytes) -> Finished:
        request, log_ = begun.request, b"".join(begun.log)
        written = [*_pieces(OutputStream.STDERR, log_), *_pieces(OutputStream.STDOUT, output)]
        execution = _ended(begun, answer, written, stdout=len(output), stderr=len(log_))
        deferred = begun.revision.spec.durability is Durability.DEFERRED
        stored = self._executions.add_ended(
            execution,
            request.input,
            written,
            idempotency.record(request.key, resource=execution.name.execution),
            patient=deferred,
        )
        if deferred:
            stored.add_done_callback(_note_refusal)
        else:
            await _until_stored(stored)
        self._telemetry.ended(execution)
        return Finished(
            execution,
            ExecutionOutput(output, truncated=False, log_tail=log_[-LOG_TAIL_BYTES:]),
            stored,
        )

    # -- patience -------------------------------------------------------------------------------

    def _wait_a_while(self, end: asyncio.Future[None], since: float) -> None:
        """Set an end that does not come in time. One timer serves all of them."""
        self._ends.append((since + SWIFT_SECONDS, end))
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWIFT_SECONDS, self._sweep)

    def _sweep(self) -> None:
        loop, ends = asyncio.get_running_loop(), self._ends
        now = loop.time() + 0.001  # timers may come a little early
        while ends and (ends[0][1].done() or ends[0][0] <= now):
            _, end = ends.popleft()
            if not end.done():
                # On a busy loop its answer may lie in the socket: one more look at what has come.
                loop.call_later(ONE_LOOK_SECONDS, _lose_patience, end)
        self._sweeping = bool(ends)
        if ends:
            loop.call_at(ends[0][0], self._sweep)


def _lose_patience(end: asyncio.Future[None]) -> None:
    if not end.done():
        end.set_result(None)


def _is_small(begun: Begun) -> bool:
    """Tell whether it has ended well, with no more output than is kept."""
    collected = begun.exchange.collected
    if collected is None:
        return False
    most = begun.revision.spec.resources.output_bytes
    return max(sum(map(len, collected)), sum(map(len, begun.log))) <= most


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


def _pieces(stream: OutputStream, data: bytes) -> Iterator[Output]:
    """Yield what was written to a stream as the journal has it."""
    for offset in range(0, len(data), CHUNK_BYTES):
        yield Output(stream, offset, data[offset : offset + CHUNK_BYTES])


def _ended(
    begun: Begun, answer: Answer, written: Sequence[Output], *, stdout: int, stderr: int
) -> Execution:
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
        last_sequence=len(written) + 3,  # QUEUED, RUNNING and the result
        labels=request.labels,
        timings=Timings(queue=_ZERO, run=ran, total=ran),
        start_time=begun.start_time,
        end_time=begun.start_time + ran,
        instance=begun.instance.name.instance,
        asked=request.envelope,
        answered=Envelope(answer.content_type, answer.headers, answer.status),
    )


async def _until_stored(stored: asyncio.Future[None]) -> None:
    """Wait for a write. Who leaves meanwhile still waits: a repeat must find its record."""
    try:
        await asyncio.shield(stored)
    except asyncio.CancelledError:
        await asyncio.wait({stored})
        raise


def _note_refusal(stored: asyncio.Future[None]) -> None:
    if not stored.cancelled() and (error := stored.exception()) is not None:
        log.warning("execution that was answered is not stored", detail=str(error))
