"""The calls that execute many functions at once, and how they survive a cut. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge.faas.v1.execution_pb2 import Execution
from skybridge.faas.v1.execution_service_pb2 import (
    ExecuteBatchRequest,
    ExecuteBatchResponse,
    ExecuteBatchResult,
    ExecuteFunctionRequest,
    InvocationAnswer,
    InvokeStreamRequest,
    InvokeStreamResponse,
)
from skybridge_client.calls import Stream, Unary, new_request_id, unary, whole
from skybridge_client.errors import SkybridgeError, from_status
from skybridge_client.executions import EXECUTE_TIMEOUT, ExecutionFields, options
from skybridge_client.feeding import Put, drop

WINDOW = 64
"""Executions of a stream that are under way at once, unless told otherwise."""
MAX_WINDOW = 256
"""What a server grants at most."""

_MESSAGE_BYTES = 256 * 1024
"""Invocations share a message up to this size."""

S = TypeVar("S")


@dataclass(frozen=True)
class Invocation:
    """One execution to run, among many on one call."""

    function: str
    input: bytes = b""
    fields: ExecutionFields = field(default_factory=ExecutionFields)
    """What else `execute` takes by keyword, such as `{"run_timeout": 5}`."""
    request_id: str = field(default_factory=lambda: new_request_id(""))

    def request(self) -> ExecuteFunctionRequest:
        """The message that asks for it."""
        return ExecuteFunctionRequest(
            function=self.function,
            input=self.input,
            options=options(self.fields),
            request_id=self.request_id,
        )


@dataclass(frozen=True)
class Answer:
    """What came of an invocation: an execution, or an error where there was none."""

    invocation: Invocation
    execution: Execution | None
    """As it ended; a function that fails is no error, see `state` and `failure`."""
    error: SkybridgeError | None

    def result(self) -> Execution:
        """The execution. Raises the error, if there is one: what `execute` would have raised."""
        if self.execution is None:
            raise self.error or SkybridgeError("the answer is empty")
        return self.execution


def execute_batch(
    invocations: Iterable[Invocation], *, timeout: float = EXECUTE_TIMEOUT
) -> Unary[list[Answer]]:
    """Executes up to 100 functions at once, waits for all, and gives the answers in that order.

    Each is executed as `execute` does, and what is wrong with one is in its answer. All inputs
    together may have a little less than 8 MiB; of outputs, 3 MiB come back, those that end
    later are cut (`output_truncated`), and `get_execution` has the rest.

    Raises InvalidArgumentError (too many), ResourceExhaustedError (too big), UnavailableError,
    DeadlineExceededError.
    """
    asked = [*invocations]
    request = ExecuteBatchRequest(requests=[each.request() for each in asked])

    def give(response: ExecuteBatchResponse) -> list[Answer]:
        return [_answer(*pair) for pair in zip(asked, response.results, strict=True)]

    return unary(lambda s: s.executions.ExecuteBatch, request, give, timeout)


@dataclass(frozen=True)
class Invoke(Generic[S]):
    """A stream of executions: the call, where the invocations come from, and the window."""

    call: Stream[InvokeStreamResponse]
    source: S
    window: int


def invoke_stream(
    invocations: S, *, window: int = WINDOW, timeout: float | None = None
) -> Invoke[S]:
    """Executes functions, many on one call, and gives each answer as its execution ends.

    Each is executed as `execute` does, and what is wrong with one is in its answer. At most
    `window` (1 to 256) are under way: only as answers come are more invocations taken from
    `invocations`, which may be without end. Leaving cancels what is under way.

    After a cut it goes on by itself, and no invocation is executed twice. The server cancels what
    was under way when the connection broke: those executions come back as CANCELLED, with reason
    DISCONNECTED, unless they had ended.

    Raises what `invocations` raises; UnavailableError when a cut stream could not be resumed,
    DeadlineExceededError after `timeout` seconds; ValueError for a window that there is not.
    """
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window: must be 1 to {MAX_WINDOW}, is {window}")
    call = Stream(lambda s: s.executions.InvokeStream, None, whole, timeout)
    return Invoke(call, invocations, window)


class Pipeline:
    """The invocations of one stream that were not answered yet."""

    at_once = True

    def __init__(self, window: int) -> None:
        self._window = window
        self._owed: dict[str, Invocation] = {}
        self._count = 0
        self._closed = False
        self._put: Put = drop
        self._first = True

    @property
    def full(self) -> bool:
        """Whether the window has no room for more."""
        return len(self._owed) >= self._window

    @property
    def done(self) -> bool:
        """Whether everything is answered, and nothing more comes."""
        return self._closed and not self._owed

    def connect(self, put: Put) -> None:
        """Ends the connection before, and sends everything that is not answered over a new one.

        The server knows by the request id what it has executed already.
        """
        self._put(None)
        self._put, self._first = put, True
        for id_, invocation in self._owed.items():
            self._send(id_, invocation)
        if self._closed:
            put(None)

    def disconnect(self) -> None:
        """Ends the connection; what is written from now on goes nowhere."""
        self._put(None)
        self._put = drop

    def write(self, item: Invocation) -> None:
        """Sends an invocation."""
        self._count += 1
        id_ = str(self._count)
        self._owed[id_] = item
        self._send(id_, item)

    def close(self) -> None:
        """Sends the end of the invocations."""
        self._closed = True
        self._put(None)

    def answers(self, response: InvokeStreamResponse) -> list[Answer]:
        """What came of the invocations that a response belongs to."""
        return [_answer(self._owed[each.id], each) for each in response.answers]

    def note(self, answer: InvokeStreamResponse) -> None:
        """Forgets the invocations that are answered."""
        for each in answer.answers:
            del self._owed[each.id]

    def merge(self, message: InvokeStreamRequest, following: InvokeStreamRequest) -> bool:
        """Puts invocations of two messages into one, which costs the server less."""
        if message.ByteSize() + following.ByteSize() > _MESSAGE_BYTES:
            return False
        message.invocations.MergeFrom(following.invocations)
        return True

    def _send(self, id_: str, invocation: Invocation) -> None:
        window = self._window if self._first else 0
        self._first = False
        message = pb.Invocation(id=id_, execute=invocation.request())
        self._put(InvokeStreamRequest(invocations=[message], window=window))


def _answer(invocation: Invocation, outcome: InvocationAnswer | ExecuteBatchResult) -> Answer:
    if outcome.HasField("execution"):
        return Answer(invocation, outcome.execution, None)
    return Answer(invocation, None, from_status(outcome.error))
