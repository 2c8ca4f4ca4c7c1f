"""Many executions on one call: pipelined, or together as a batch.

Each has an outcome of its own: how it ended, or the status that a call of its own would have had.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

import structlog
from google.rpc.status_pb2 import Status
from structlog.contextvars import get_contextvars

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge.faas.v1.execution_pb2 import Execution
from skybridge_server.api.calls import is_lost
from skybridge_server.api.errors import code_of, status_of
from skybridge_server.errors import InvalidArgumentError
from skybridge_server.models.functions import MIB
from skybridge_server.services.violations import Violations

DEFAULT_WINDOW, MAX_WINDOW = 64, 256
MAX_ID_BYTES = 128
MAX_BATCH = 100
MAX_BATCH_OUTPUT = 3 * MIB

Execute = Callable[[pb.ExecuteFunctionRequest], Awaitable[Execution]]
"""Executes a function, and returns its execution as it ended."""

log = structlog.get_logger()


async def batch(request: pb.ExecuteBatchRequest, execute: Execute) -> pb.ExecuteBatchResponse:
    """Execute all at once, and return the outcomes in the order of the requests."""
    with Violations() as wrong:
        if len(request.requests) > MAX_BATCH:
            wrong.add("requests", f"must be at most {MAX_BATCH}, are {len(request.requests)}")
    room = _Room(MAX_BATCH_OUTPUT)

    async def run(each: pb.ExecuteFunctionRequest) -> pb.ExecuteBatchResult:
        result = pb.ExecuteBatchResult()
        await _fill(result, execute(each))
        room.cut(result.execution)
        return result

    return pb.ExecuteBatchResponse(results=await asyncio.gather(*map(run, request.requests)))


class _Room:
    """What may still go into an answer. What ends later is cut, so that little has to be kept."""

    def __init__(self, left: int) -> None:
        self._left = left

    def cut(self, execution: Execution) -> None:
        missing = len(execution.output) - self._left
        if missing > 0:
            execution.output = execution.output[: self._left]
            execution.output_truncated = True
        self._left -= len(execution.output)
        missing = len(execution.log_tail) - self._left
        if missing > 0:
            execution.log_tail = execution.log_tail[missing:]
        self._left -= len(execution.log_tail)


class Pipeline:
    """The executions of one InvokeStream. For the event loop alone."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._window = 0
        self._owed = 0
        """Messages that were read, and whose answers were not taken yet."""
        self._room = asyncio.Event()
        self._all_read = False
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._answers: asyncio.Queue[pb.InvokeStreamResponse | Exception | None] = asyncio.Queue()
        """None: there are no more. An exception ends the call."""

    async def answers(
        self, messages: AsyncIterable[pb.InvokeStreamRequest]
    ) -> AsyncGenerator[pb.InvokeStreamResponse]:
        """Yield answers as executions end; whoever stops listening cancels what is under way."""
        reading = asyncio.create_task(self._read(messages))
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
                self._owed -= 1
                self._room.set()
                self._end_if_done()
        finally:
            tasks = [reading, *self._under_way.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, messages: AsyncIterable[pb.InvokeStreamRequest]) -> None:
        """Read while the window has room: what is not read holds back the caller."""
        try:
            async for message in messages:
                self._begin(message)
                while self._owed >= self._window:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:  # noqa: BLE001 - the call ends with it
            self._answers.put_nowait(error)
        self._all_read = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._all_read and not self._owed:
            self._answers.put_nowait(None)

    def _begin(self, message: pb.InvokeStreamRequest) -> None:
        self._owed += 1
        try:
            with Violations() as wrong:
                self._check(message, wrong)
        except InvalidArgumentError as error:
            refusal = pb.InvokeStreamResponse(id=message.id[:MAX_ID_BYTES], error=_status(error))
            self._answers.put_nowait(refusal)
        else:
            self._under_way[message.id] = asyncio.create_task(self._run(message))
        if not self._window:
            self._window = min(max(message.window, 0) or DEFAULT_WINDOW, MAX_WINDOW)

    def _check(self, message: pb.InvokeStreamRequest, wrong: Violations) -> None:
        if not 1 <= len(message.id.encode()) <= MAX_ID_BYTES:
            wrong.add("id", f"must have 1 to {MAX_ID_BYTES} bytes")
        elif message.id in self._under_way:
            wrong.add("id", f"'{message.id}' is under way on this call: use another")
        if message.window < 0 or (message.window and self._window):
            wrong.add("window", "must be positive, and stand in the first message only")

    async def _run(self, message: pb.InvokeStreamRequest) -> None:
        answer = pb.InvokeStreamResponse(id=message.id)
        await _fill(answer, self._execute(message.execute))
        del self._under_way[message.id]
        self._answers.put_nowait(answer)


async def _fill(
    outcome: pb.InvokeStreamResponse | pb.ExecuteBatchResult, work: Awaitable[Execution]
) -> None:
    """Fill in how an execution ended, or why it was not executed."""
    try:
        outcome.execution.CopyFrom(await work)
    except BaseException as error:
        if is_lost(error):
            raise
        outcome.error.CopyFrom(_status(error))


def _status(error: BaseException) -> Status:
    if code_of(error) is None:
        log.error("execution failed", exc_info=error)
    request_id = get_contextvars().get("request_id", "")
    return Status.FromString(status_of(error, request_id).details)
