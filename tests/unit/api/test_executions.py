"""Executions and their journals as messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from skybridge.faas.v1 import execution_pb2 as pb
from skybridge.faas.v1 import execution_service_pb2 as service_pb
from skybridge_server.api.convert import asked
from skybridge_server.api.convert.executions import (
    event_to_proto,
    execution_to_proto,
    log_entry_to_proto,
)
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
    Usage,
)
from skybridge_server.models.journal import (
    Event,
    Gap,
    GapReason,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.requests import ExecutionOutput, Heartbeat, InputAck, LogEntry
from skybridge_server.services.violations import Violations

NAME = ExecutionName("default", "01890a5d-ac96-774b-bcce-b302099a8057")
NOW = datetime(2026, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUEUED = Execution(
    name=NAME,
    function=FunctionName("default", "hello"),
    function_uid="u",
    revision=3,
    create_time=NOW,
)
ENDED = Execution(
    name=NAME,
    function=FunctionName("default", "hello"),
    function_uid="u",
    revision=3,
    create_time=NOW,
    state=ExecutionState.FAILED,
    failure=Failure(FailureReason.SIGNAL, "killed", signal=9),
    exit_code=0,
    stdout_bytes=1,
    stderr_bytes=2,
    last_sequence=5,
    attempt=2,
    cold_start=True,
    labels={"a": "b"},
    timings=Timings(SECOND, 2 * SECOND, 3 * SECOND, 6 * SECOND),
    usage=Usage(cpu=SECOND, peak_memory_bytes=0, oom_killed=True),
    start_time=NOW + SECOND,
    end_time=NOW + 2 * SECOND,
)


def test_an_execution_that_waits_says_nothing_of_what_has_not_happened() -> None:
    message = execution_to_proto(QUEUED)
    assert message.name == f"namespaces/default/executions/{NAME.execution}"
    assert message.function == "namespaces/default/functions/hello"
    assert message.revision == "namespaces/default/functions/hello/revisions/3"
    assert message.state == pb.EXECUTION_STATE_QUEUED
    assert message.create_time.ToDatetime(UTC) == NOW
    for field in ("failure", "exit_code", "start_time", "end_time"):
        assert not message.HasField(field)
    assert not message.timings.ListFields()
    assert not message.usage.ListFields()


def test_an_execution_that_has_ended_says_all() -> None:
    message = execution_to_proto(ENDED, ExecutionOutput(b"out", truncated=True, log_tail=b"log"))
    assert message.state == pb.EXECUTION_STATE_FAILED
    assert message.failure == pb.Failure(
        reason=pb.FAILURE_REASON_SIGNAL, message="killed", signal=9
    )
    assert message.HasField("exit_code")
    assert (message.output, message.output_truncated, message.log_tail) == (b"out", True, b"log")
    assert (message.stdout_bytes, message.stderr_bytes, message.last_sequence) == (1, 2, 5)
    assert (message.attempt, message.cold_start, dict(message.labels)) == (2, True, {"a": "b"})
    phases = message.timings
    assert [
        phase.ToTimedelta() for phase in (phases.queue, phases.start, phases.run, phases.total)
    ] == [SECOND, 2 * SECOND, 3 * SECOND, 6 * SECOND]
    assert message.usage.cpu.ToTimedelta() == SECOND
    assert message.usage.HasField("peak_memory_bytes")
    assert message.usage.oom_killed
    assert message.start_time.ToDatetime(UTC) == NOW + SECOND
    assert message.end_time.ToDatetime(UTC) == NOW + 2 * SECOND
    assert not execution_to_proto(ENDED).output


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (
            StateChange(ExecutionState.RUNNING, attempt=2),
            "state_change",
            pb.StateChange(state=pb.EXECUTION_STATE_RUNNING, attempt=2),
        ),
        (
            Output(OutputStream.STDERR, 7, b"\0\xff"),
            "output",
            pb.Output(stream=pb.OUTPUT_STREAM_STDERR, offset=7, data=b"\0\xff"),
        ),
        (
            Gap(OutputStream.STDOUT, 7, 0, GapReason.OUTPUT_LIMIT),
            "gap",
            pb.Gap(
                stream=pb.OUTPUT_STREAM_STDOUT,
                offset=7,
                length=0,
                reason=pb.GAP_REASON_OUTPUT_LIMIT,
            ),
        ),
        (
            Gap(OutputStream.STDOUT, 7, None, GapReason.RUNTIME_UNAVAILABLE),
            "gap",
            pb.Gap(
                stream=pb.OUTPUT_STREAM_STDOUT,
                offset=7,
                reason=pb.GAP_REASON_RUNTIME_UNAVAILABLE,
            ),
        ),
        (Result(ENDED), "result", pb.Result(execution=execution_to_proto(ENDED))),
    ],
)
def test_events(body: Any, kind: str, expected: Any) -> None:
    event = event_to_proto(NAME, Event(4, NOW, body))
    assert (event.execution, event.sequence) == (str(NAME), 4)
    assert event.time.ToDatetime(UTC) == NOW
    assert event.WhichOneof("event") == kind
    assert getattr(event, kind) == expected


def test_signs_of_life_and_acks() -> None:
    beat = event_to_proto(NAME, Heartbeat(4, NOW))
    assert (beat.sequence, beat.WhichOneof("event")) == (4, "heartbeat")
    ack = event_to_proto(NAME, InputAck(0, False, 4, NOW))
    assert (ack.sequence, ack.WhichOneof("event")) == (4, "input_ack")
    ack = event_to_proto(NAME, InputAck(5, True, 4, NOW))
    assert ack.input_ack == pb.InputAck(committed_bytes=5, closed=True)


def test_log_entries() -> None:
    entry = log_entry_to_proto(LogEntry(NAME, NOW, Output(OutputStream.STDOUT, 0, b"x")))
    assert (entry.execution, entry.output.data) == (str(NAME), b"x")
    gap = Gap(OutputStream.STDOUT, 1, 5, GapReason.OUTPUT_LIMIT)
    entry = log_entry_to_proto(LogEntry(NAME, NOW, gap))
    assert (entry.WhichOneof("entry"), entry.gap.length) == ("gap", 5)
    assert entry.time.ToDatetime(UTC) == NOW


def test_what_a_request_leaves_open() -> None:
    stream = service_pb.StreamExecutionRequest()
    with Violations() as wrong:
        assert asked.cancel_after(stream, wrong) == 30 * SECOND
        assert asked.heartbeat(stream, SECOND / 10, wrong) == SECOND / 10
        assert asked.wait_time(service_pb.WaitExecutionRequest(), wrong) == 30 * SECOND
        assert asked.wants_output(service_pb.GetExecutionRequest(), wrong)
        stream.on_disconnect = service_pb.ON_DISCONNECT_CONTINUE
        assert asked.cancel_after(stream, wrong) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (ExecutionState, pb.ExecutionState, "EXECUTION_STATE"),
        (FailureReason, pb.FailureReason, "FAILURE_REASON"),
        (OutputStream, pb.OutputStream, "OUTPUT_STREAM"),
        (GapReason, pb.GapReason, "GAP_REASON"),
    ],
)
def test_enums_have_the_numbers_of_the_api(ours: Any, theirs: Any, prefix: str) -> None:
    expected = {f"{prefix}_{member.name}": member.value for member in ours}
    assert dict(theirs.items()) == {f"{prefix}_UNSPECIFIED": 0, **expected}
