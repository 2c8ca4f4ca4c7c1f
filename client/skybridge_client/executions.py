"""The calls that execute functions and follow executions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypedDict, TypeVar, Unpack

from skybridge.faas.v1.execution_pb2 import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    OutputStream,
)
from skybridge.faas.v1.execution_service_pb2 import (
    AttachExecutionRequest,
    AttachResume,
    AttachStart,
    CancelExecutionRequest,
    DeleteExecutionRequest,
    ExecuteFunctionRequest,
    ExecutionOptions,
    ExecutionView,
    GetExecutionRequest,
    ListExecutionsRequest,
    OnDisconnect,
    ReadLogsRequest,
    ReadLogsResponse,
    StartExecutionRequest,
    StreamExecutionRequest,
    WaitExecutionRequest,
    WatchExecutionRequest,
)
from skybridge_client.calls import (
    Deadline,
    Pages,
    Poll,
    Stream,
    Unary,
    duration,
    new_request_id,
    nothing,
    pages,
    stream,
    timestamp,
    unary,
    whole,
)
from skybridge_client.journal import Follow
from skybridge_client.specs import enum_value

EXECUTE_TIMEOUT = 600.0
"""Seconds that `execute` waits unless told otherwise: more than the default timeouts of a
function's queue, start and run together."""

_FINAL = (
    ExecutionState.EXECUTION_STATE_SUCCEEDED,
    ExecutionState.EXECUTION_STATE_FAILED,
    ExecutionState.EXECUTION_STATE_TIMED_OUT,
    ExecutionState.EXECUTION_STATE_CANCELLED,
)

# Seconds of one long poll, and what its answer may take on top.
_POLL = 60.0
_POLL_MARGIN = 15.0

S = TypeVar("S")


class ExecutionFields(TypedDict, total=False):
    """What may be said about one execution, by keyword.

    `run_timeout` limits its running time in seconds, to less than the function's;
    `traceparent` is a W3C trace context that is handed on to the function. `content_type` and
    `headers` go with the input to a function with the contract HTTP or LAMBDA.
    """

    run_timeout: float
    labels: Mapping[str, str]
    traceparent: str
    content_type: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Attach(Generic[S]):
    """An execution to start and to attach to, with what its caller writes to stdin."""

    follow: Follow
    source: S


def is_final(execution: Execution) -> bool:
    """Whether an execution has ended."""
    return execution.state in _FINAL


def execute(
    function: str,
    input: bytes = b"",  # noqa: A002 - the API's word
    *,
    request_id: str = "",
    timeout: float = EXECUTE_TIMEOUT,
    **fields: Unpack[ExecutionFields],
) -> Unary[Execution]:
    """Executes a function, waits for its end, and returns it with its output.

    A function that fails raises nothing: look at `state` and `failure`. A `timeout` (in
    seconds) that is shorter than the function's limits the execution too.

    Raises InvalidArgumentError, NotFoundError, FailedPreconditionError (never deployed, or
    disabled), ResourceExhaustedError (queue full), UnavailableError, DeadlineExceededError.
    """
    request = ExecuteFunctionRequest(
        function=function,
        input=input,
        options=options(fields),
        request_id=new_request_id(request_id),
    )
    return unary(lambda s: s.executions.ExecuteFunction, request, lambda a: a.execution, timeout)


def start(
    function: str,
    input: bytes = b"",  # noqa: A002 - the API's word
    *,
    start_time: dt.datetime | None = None,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[ExecutionFields],
) -> Unary[Execution]:
    """Starts an execution and returns once it is durably queued; it is bound to no caller.

    With `start_time`, at most 30 days from now, it waits until then. If it fails, it is tried
    again as the function's `max_attempts` and the other fields of its retry policy say.

    Raises what `execute` raises.
    """
    request = StartExecutionRequest(
        function=function,
        input=input,
        options=options(fields),
        request_id=new_request_id(request_id),
        start_time=None if start_time is None else timestamp("start_time", start_time),
    )
    return unary(lambda s: s.executions.StartExecution, request, lambda a: a.execution, timeout)


def stream_execution(
    function: str,
    input: bytes = b"",  # noqa: A002 - the API's word
    *,
    on_disconnect: Literal["cancel", "continue"] = "cancel",
    disconnect_grace: float | None = None,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[ExecutionFields],
) -> Follow:
    """Starts an execution and gives its events, live, from the first to its `result`.

    After a cut it goes on by itself where it was, and shows no event twice. A caller that
    leaves cancels the execution after `disconnect_grace` seconds (default: 30), unless
    `on_disconnect` is "continue". Without `timeout` there is no deadline.

    Raises what `execute` raises; UnavailableError when a cut stream could not be resumed.
    """
    request = StreamExecutionRequest(
        function=function,
        input=input,
        options=options(fields),
        on_disconnect=OnDisconnect.ValueType(enum_value(OnDisconnect.DESCRIPTOR, on_disconnect)),
        disconnect_grace=duration(disconnect_grace),
        request_id=new_request_id(request_id),
    )
    call = stream(lambda s: s.executions.StreamExecution, request, lambda a: a.event, timeout)
    return Follow(call, _watch)


def watch(execution: str, *, after_sequence: int = 0, timeout: float | None = None) -> Follow:
    """Gives the events of any execution, running or ended, up to its `result`.

    `after_sequence` is the last event already seen; 0 means from the start. It resumes
    itself as `stream` does. Leaving does not touch the execution.

    Raises NotFoundError, OutOfRangeError, UnavailableError.
    """
    call = _watch(execution, after_sequence)
    return Follow(
        Stream(call.rpc, call.request, call.give, timeout), _watch, after_sequence=after_sequence
    )


def attach(
    function: str,
    input: S,  # noqa: A002 - the API's word
    *,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[ExecutionFields],
) -> Attach[S]:
    """Starts an execution, writes `input` to its stdin piece by piece, and gives its events.

    `input` gives bytes, or a Signal to send one; where it ends, stdin ends. Output comes
    while input is still being read. After a cut both go on where they were. The execution
    is cancelled when its caller stays away for more than 30 s.

    Raises what `execute` raises; UnavailableError when a cut stream could not be resumed.
    """
    first = AttachExecutionRequest(
        start=AttachStart(
            function=function, options=options(fields), request_id=new_request_id(request_id)
        )
    )
    return Attach(Follow(_attach(first, timeout), _resume_attached), input)


def get_execution(
    name: str, *, view: Literal["basic", "full"] = "full", timeout: float | None = None
) -> Unary[Execution]:
    """Returns an execution; `view="basic"` leaves out output and log. Raises NotFoundError."""
    wanted = ExecutionView.ValueType(enum_value(ExecutionView.DESCRIPTOR, view))
    request = GetExecutionRequest(name=name, view=wanted)
    return unary(lambda s: s.executions.GetExecution, request, lambda a: a.execution, timeout)


def list_executions(
    *,
    parent: str = "",
    filter: str = "",  # noqa: A002 - the API's word
    order_by: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[Execution]:
    """Gives executions, the newest first; asks for the next page when it is needed.

    `filter` is such as `function = "hello" AND state = FAILED`. `timeout` is that of each
    page. Output and log are left out.

    Raises InvalidArgumentError.
    """
    request = ListExecutionsRequest(
        parent=parent, filter=filter, order_by=order_by, page_size=page_size
    )
    return pages(lambda s: s.executions.ListExecutions, request, lambda a: a.executions, timeout)


def wait(execution: str, *, timeout: float | None = None) -> Poll[Execution]:
    """Waits until an execution has ended, and returns it with its output.

    After `timeout` seconds it returns the execution as it then is: see `is_final`.

    Raises NotFoundError, UnavailableError.
    """
    return Poll(_polls(execution, Deadline(timeout)), is_final)


def cancel(execution: str, *, timeout: float | None = None) -> Unary[Execution]:
    """Stops an execution; returns at once, and leaves one that has ended as it is.

    Raises NotFoundError.
    """
    request = CancelExecutionRequest(name=execution)
    return unary(lambda s: s.executions.CancelExecution, request, lambda a: a.execution, timeout)


def delete_execution(name: str, *, timeout: float | None = None) -> Unary[None]:
    """Deletes an execution and its journal.

    Raises NotFoundError, FailedPreconditionError (it has not ended).
    """
    request = DeleteExecutionRequest(name=name)
    return unary(lambda s: s.executions.DeleteExecution, request, nothing, timeout)


def logs(
    name: str,
    *,
    follow: bool = False,
    tail_lines: int = 0,
    since: dt.datetime | None = None,
    stream: Literal["stdout", "stderr"] | None = None,
    attempt: int = 0,
    timeout: float | None = None,
) -> Stream[ReadLogsResponse]:
    """Gives what an execution, or all executions of a function, wrote; the oldest first.

    A bare id means a function. `follow` goes on as new output comes; `tail_lines` starts
    with the last lines only, `since` leaves out what is older. Of an execution it gives what
    the last `attempt` wrote, or the one that is asked for.

    Raises InvalidArgumentError, NotFoundError, OutOfRangeError.
    """
    request = ReadLogsRequest(name=name, follow=follow, tail_lines=tail_lines, attempt=attempt)
    if since is not None:
        request.since.CopyFrom(timestamp("since", since))
    if stream is not None:
        request.stream = OutputStream.ValueType(enum_value(OutputStream.DESCRIPTOR, stream))
    return Stream(lambda s: s.executions.ReadLogs, request, whole, timeout)


def options(fields: ExecutionFields) -> ExecutionOptions:
    """The message of what was said about one execution."""
    return ExecutionOptions(
        timeout=duration(fields.get("run_timeout")),
        labels=fields.get("labels"),
        traceparent=fields.get("traceparent", ""),
        content_type=fields.get("content_type", ""),
        headers=fields.get("headers"),
    )


def _watch(execution: str, after_sequence: int) -> Stream[ExecutionEvent]:
    request = WatchExecutionRequest(name=execution, after_sequence=after_sequence)
    return stream(lambda s: s.executions.WatchExecution, request, lambda a: a.event, None)


def _attach(first: AttachExecutionRequest, timeout: float | None) -> Stream[ExecutionEvent]:
    return Stream(lambda s: s.executions.AttachExecution, first, lambda a: a.event, timeout)


def _resume_attached(execution: str, after_sequence: int) -> Stream[ExecutionEvent]:
    resume = AttachResume(execution=execution, after_sequence=after_sequence)
    return _attach(AttachExecutionRequest(resume=resume), None)


def _polls(execution: str, deadline: Deadline) -> Iterator[Unary[Execution]]:
    """One long poll after another until the deadline; always at least one."""
    while True:
        left = deadline.left()
        poll = _POLL if left is None else min(_POLL, max(left, 0.001))
        request = WaitExecutionRequest(name=execution, timeout=duration(poll))
        yield unary(
            lambda s: s.executions.WaitExecution,
            request,
            lambda a: a.execution,
            poll + _POLL_MARGIN,
        )
        if deadline.passed():
            return
