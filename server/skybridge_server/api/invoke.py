"""Many executions on one call: pipelined, or together as a batch.

Each has an outcome of its own: how it ended, or the status that a call of its own would have had.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial

import structlog
from google.rpc.status_pb2 import Status
from structlog.contextvars import get_contextvars

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.convert.executions import fill_execution
from skybridge_server.api.errors import code_of, status_of
from skybridge_server.errors import SkybridgeError
from skybridge_server.models.functions import MIB
from skybridge_server.services.executions import Ended, ExecutionService
from skybridge_server.services.requests import ExecutionOutput, ExecutionRequest
from skybridge_server.services.together import Member, Outcome, execute_all
from skybridge_server.services.violations import Violations

DEFAULT_WINDOW, MAX_WINDOW = 64, 256
MAX_ID_BYTES = 128
MAX_BATCH = 100
MAX_BATCH_OUTPUT = 3 * MIB
PACKED_BYTES = MIB
"""Of output and log, in answers that share a message; one with more has its own."""

Wanted = Callable[[pb.ExecuteFunctionRequest], ExecutionRequest]
"""Returns what a request asks for. InvalidArgumentError, PermissionDeniedError."""

log = structlog.get_logger()


async def batch(
    request: pb.ExecuteBatchRequest,
    executions: ExecutionService,
    wanted: Wanted,
    time_left: timedelta | None,
) -> pb.ExecuteBatchResponse:
    """Execute all at once, and return the outcomes in the order of the requests.

    InvalidArgumentError: they are too many.
    """
    with Violations() as wrong:
        if len(request.requests) > MAX_BATCH:
            wrong.add("requests", f"must be at most {MAX_BATCH}, are {len(request.requests)}")
    room = _Room(MAX_BATCH_OUTPUT)

    asked: list[ExecutionRequest | SkybridgeError] = []
    for each in request.requests:
        try:
            asked.append(wanted(each))
        except SkybridgeError as error:
            asked.append(error)
    right = [each for each in asked if isinstance(each, ExecutionRequest)]
    ended = iter(await execute_all(executions, right, room.cut, time_left=time_left))
    response = pb.ExecuteBatchResponse()
    for one in asked:
        outcome = next(ended) if isinstance(one, ExecutionRequest) else one
        _fill(response.results.add(), outcome)
    return response


class _Room:
    """What may still go into an answer. What ends later is cut, so that little has to be kept."""

    def __init__(self, left: int) -> None:
        self._left = left

    def cut(self, ended: Ended) -> Ended:
        execution, output = ended
        if _size(output) <= self._left:
            self._left -= _size(output)
            return ended
        kept = output.output[: self._left]
        self._left -= len(kept)
        tail = output.log_tail[max(0, len(output.log_tail) - self._left) :]
        self._left -= len(tail)
        truncated = output.truncated or len(kept) < len(output.output)
        return execution, ExecutionOutput(kept, truncated=truncated, log_tail=tail)


class Pipeline:
    """The executions of one InvokeStream. For the event loop alone."""

    def __init__(
        self,
        executions: ExecutionService,
        wanted: Wanted,
        time_left: Callable[[], timedelta | None],
    ) -> None:
        """`time_left`: to the deadline of the call."""
        self._executions = executions
        self._wanted = wanted
        self._time_left = time_left
        self._window = 0
        self._owed = 0
        """How many were taken, and their answers not sent yet."""
        self._under_way: dict[str, Member] = {}
        self._outcomes: list[tuple[str, Outcome]] = []
        """What has ended, by id, the first first."""
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def answers(
        self, messages: AsyncIterable[pb.InvokeStreamRequest]
    ) -> AsyncGenerator[pb.InvokeStreamResponse]:
        """Yield answers as executions end; whoever stops listening cancels what is under way."""
        reading = asyncio.create_task(self._read(messages))
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while self._owed or not reading.done():
                await self._changed.wait()
                self._changed.clear()
                outcomes, self._outcomes = self._outcomes, []
                for response in _packed(outcomes):
                    yield response
                    self._owed -= len(response.answers)
                    self._room.set()
                if reading.done():
                    reading.result()  # the call ends with its error
        finally:
            reading.cancel()
            members = [*self._under_way.values()]
            for member in members:
                member.leave()
            tasks = [member.task for member in members if member.task is not None]
            await asyncio.gather(reading, *tasks, return_exceptions=True)

    async def _read(self, messages: AsyncIterable[pb.InvokeStreamRequest]) -> None:
        """Read while the window has room: what is not read holds back the caller."""
        async for message in messages:
            self._take_window(message.window)
            for invocation in message.invocations:
                self._begin(invocation)
                while self._owed >= self._window:
                    self._room.clear()
                    await self._room.wait()

    def _take_window(self, window: int) -> None:
        with Violations() as wrong:
            if window < 0 or (window and self._window):
                wrong.add("window", "must be positive, and stand in the first message only")
        self._window = self._window or min(window or DEFAULT_WINDOW, MAX_WINDOW)

    def _begin(self, invocation: pb.Invocation) -> None:
        self._owed += 1
        id_ = invocation.id
        try:
            self._check(id_)
            request = self._wanted(invocation.execute)
        except Exception as error:  # noqa: BLE001 - it is the outcome of this one alone
            self._answer(id_[:MAX_ID_BYTES], error)
            return
        self._under_way[id_] = Member(
            self._executions, request, partial(self._ended, id_), time_left=self._time_left()
        )

    def _check(self, id_: str) -> None:
        with Violations() as wrong:
            if not 1 <= len(id_.encode()) <= MAX_ID_BYTES:
                wrong.add("id", f"must have 1 to {MAX_ID_BYTES} bytes")
            elif id_ in self._under_way:
                wrong.add("id", f"'{id_}' is under way on this call: use another")

    def _ended(self, id_: str, outcome: Outcome) -> None:
        del self._under_way[id_]
        self._answer(id_, outcome)

    def _answer(self, id_: str, outcome: Outcome) -> None:
        self._outcomes.append((id_, outcome))
        self._changed.set()


def _packed(outcomes: Iterable[tuple[str, Outcome]]) -> Iterator[pb.InvokeStreamResponse]:
    """Yield as few messages as hold them all."""
    response, size = pb.InvokeStreamResponse(), 0
    for id_, outcome in outcomes:
        more = 0 if isinstance(outcome, BaseException) else _size(outcome[1])
        if response.answers and size + more > PACKED_BYTES:
            yield response
            response, size = pb.InvokeStreamResponse(), 0
        _fill(response.answers.add(id=id_), outcome)
        size += more
    if response.answers:
        yield response


def _size(output: ExecutionOutput) -> int:
    return len(output.output) + len(output.log_tail)


def _fill(answer: pb.InvocationAnswer | pb.ExecuteBatchResult, outcome: Outcome) -> None:
    if isinstance(outcome, BaseException):
        answer.error.CopyFrom(_status(outcome))
    else:
        fill_execution(answer.execution, *outcome)


def _status(error: BaseException) -> Status:
    if code_of(error) is None:
        log.error("execution failed", exc_info=error)
    request_id = get_contextvars().get("request_id", "")
    return Status.FromString(status_of(error, request_id).details)
