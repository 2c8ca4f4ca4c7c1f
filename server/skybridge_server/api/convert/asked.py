"""What callers ask of executions: how to run one, how to follow it, what to read of it."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.convert.values import (
    duration_from_proto,
    enum_from_proto,
    optional_duration_from_proto,
    optional_enum_from_proto,
    optional_timestamp_from_proto,
)
from skybridge_server.models.executions import NO_ENVELOPE, Envelope
from skybridge_server.models.journal import OutputStream
from skybridge_server.models.names import FunctionName
from skybridge_server.services.requests import ExecutionRequest, LogQuery, RequestKey
from skybridge_server.services.violations import Violations, check_between

MAX_CHUNK_BYTES = 64 * 1024
MAX_DELAY = timedelta(days=30)
SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL")

_ZERO = timedelta(0)
_GRACE = timedelta(seconds=30)
_WAIT = timedelta(seconds=30)


class _OnDisconnect(enum.IntEnum):
    CANCEL = 1
    CONTINUE = 2


class _View(enum.IntEnum):
    BASIC = 1
    FULL = 2


def execution_request(
    function: FunctionName,
    options: pb.ExecutionOptions | None,
    key: RequestKey | None,
    wrong: Violations,
    *,
    input_: bytes | None,
    prefix: str = "",
    **more: Any,
) -> ExecutionRequest:
    """Return what to execute; `input_` None: the caller writes it while the function runs.

    `options` None: none were given, which is what most do, and quicker to see than each of them.

    `more`: fields of the request that only some methods have.
    """
    interactive = input_ is None
    if options is None:
        return ExecutionRequest(function, input_ or b"", key=key, interactive=interactive, **more)
    return ExecutionRequest(
        function=function,
        input=input_ or b"",
        timeout=optional_duration_from_proto(options, "timeout", f"{prefix}options.", wrong),
        labels=dict(options.labels),
        traceparent=options.traceparent,
        key=key,
        interactive=interactive,
        envelope=_envelope(options),
        **more,
    )


def start_time(request: pb.StartExecutionRequest, wrong: Violations) -> datetime | None:
    """Return when an execution is to start; None: now."""
    time = optional_timestamp_from_proto(request, "start_time", "", wrong)
    if time is not None and time > datetime.now(UTC) + MAX_DELAY:
        wrong.add("start_time", f"must be at most {MAX_DELAY.days} days from now")
    return time


def _envelope(options: pb.ExecutionOptions) -> Envelope:
    if not options.content_type and not options.headers:
        return NO_ENVELOPE
    return Envelope(options.content_type, dict(options.headers))


def cancel_after(request: pb.StreamExecutionRequest, wrong: Violations) -> timedelta | None:
    """Return how long an execution may go on without its caller; None: for ever."""
    mode = enum_from_proto(request.on_disconnect, _OnDisconnect.CANCEL, "on_disconnect", wrong)
    grace = duration_from_proto(request, "disconnect_grace", _GRACE, "", wrong)
    check_between(grace, _ZERO, timedelta(hours=1), "disconnect_grace", wrong)
    return grace if mode is _OnDisconnect.CANCEL else None


def heartbeat(
    request: pb.StreamExecutionRequest | pb.WatchExecutionRequest,
    default: timedelta,
    wrong: Violations,
) -> timedelta:
    """Return the silence after which a heartbeat is due."""
    interval = optional_duration_from_proto(request, "heartbeat_interval", "", wrong)
    if interval is None:
        return default
    low, high = timedelta(seconds=1), timedelta(minutes=10)
    check_between(interval, low, high, "heartbeat_interval", wrong)
    return interval


def after_sequence(value: int, field: str, wrong: Violations) -> int:
    if value < 0:
        wrong.add(field, "must be the sequence of the last event seen, or 0")
    return value


def wants_output(request: pb.GetExecutionRequest, wrong: Violations) -> bool:
    return enum_from_proto(request.view, _View.FULL, "view", wrong) is _View.FULL


def wait_time(request: pb.WaitExecutionRequest, wrong: Violations) -> timedelta:
    timeout = duration_from_proto(request, "timeout", _WAIT, "", wrong)
    check_between(timeout, _ZERO, timedelta(minutes=5), "timeout", wrong)
    return timeout


def log_query(request: pb.ReadLogsRequest, wrong: Violations) -> LogQuery:
    if request.tail_lines < 0:
        wrong.add("tail_lines", "must be a number of lines, or 0 for all")
    if request.attempt < 0:
        wrong.add("attempt", "must be the number of an attempt, from 1, or 0 for the last")
    return LogQuery(
        follow=request.follow,
        tail_lines=request.tail_lines,
        since=optional_timestamp_from_proto(request, "since", "", wrong),
        stream=optional_enum_from_proto(OutputStream, request.stream, "stream", wrong),
        attempt=request.attempt,
    )


def check_chunk(chunk: pb.InputChunk, wrong: Violations) -> None:
    if chunk.offset < 0:
        wrong.add("input.offset", "must be a position in stdin")
    if len(chunk.data) > MAX_CHUNK_BYTES:
        wrong.add("input.data", f"must have at most {MAX_CHUNK_BYTES} bytes, has {len(chunk.data)}")


def check_signal(signal: pb.Signal, wrong: Violations) -> None:
    if signal.name not in SIGNALS:
        wrong.add("signal.name", f"must be one of {', '.join(SIGNALS)}")
