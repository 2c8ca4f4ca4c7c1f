from __future__ import annotations

import datetime as dt

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from skybridge.faas.v1 import execution_service_pb2 as service
from skybridge_client.messages import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Gap,
    GapReason,
    Output,
    OutputStream,
    Timings,
)
from tests.client.commands import skybridge
from tests.client.events import NAME, STDERR, STDOUT, output, result
from tests.client.scripted import Scripted

ID = NAME.rpartition("/")[2]
RUNNING = Execution(name=NAME, state=ExecutionState.EXECUTION_STATE_RUNNING)
FAILED = Execution(
    name=NAME,
    function="namespaces/default/functions/hello",
    state=ExecutionState.EXECUTION_STATE_FAILED,
    failure=Failure(reason=FailureReason.FAILURE_REASON_EXIT_CODE, message="exit code 3"),
    exit_code=3,
    output=b"line 1\nline 2\n",
    timings=Timings(total=Duration(nanos=250_000_000)),
)


def listed(*executions: Execution) -> Message:
    return service.ListExecutionsResponse(executions=executions)


def test_list(server: Scripted) -> None:
    server.on("ListExecutions", listed(FAILED, RUNNING))
    head, failed, running = skybridge(server, "executions", "list").text.splitlines()
    assert head.split() == ["EXECUTION", "FUNCTION", "STATE", "TOOK", "CREATED", "WHY"]
    assert failed.split()[:4] == [ID, "hello", "failed", "250ms"]
    assert failed.split()[-1] == "exit_code"
    assert running.split()[1] == "running"
    assert server.asked("ListExecutions")[0].page_size == 50


def test_list_of_a_function(server: Scripted) -> None:
    server.on("ListExecutions", listed()).on("ListExecutions", listed(FAILED))
    skybridge(server, "executions", "list", "--function", "hello", "--filter", "state = FAILED")
    assert skybridge(server, "executions", "list", "-o", "name").text == f"{NAME}\n"
    first, second = server.asked("ListExecutions")
    assert first.filter == 'function = "hello" AND state = FAILED'
    assert second.filter == ""


def test_get_shows_output_in_its_column(server: Scripted) -> None:
    server.on("GetExecution", service.GetExecutionResponse(execution=FAILED))
    lines = skybridge(server, "executions", "get", ID).text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("output "))
    column = lines[first].index("line 1")
    assert lines[first + 1] == " " * column + "line 2"
    assert server.asked("GetExecution")[0].name == ID


def test_watch_shows_events_and_exits_with_the_verdict(server: Scripted) -> None:
    events = [output(2, b"out"), output(3, b"err", STDERR), result(4, FAILED)]
    server.on("WatchExecution", *(service.WatchExecutionResponse(event=event) for event in events))
    ran = skybridge(server, "executions", "watch", ID, "--after", "1")
    assert (ran.code, ran.stdout, ran.stderr) == (3, b"out", "err")
    assert server.asked("WatchExecution")[0].after_sequence == 1


def waited(execution: Execution) -> Message:
    return service.WaitExecutionResponse(execution=execution)


def test_wait_exits_with_the_verdict(server: Scripted) -> None:
    server.on("WaitExecution", waited(RUNNING)).on("WaitExecution", waited(FAILED))
    ran = skybridge(server, "executions", "wait", ID, "--json")
    assert (ran.code, ran.json["exitCode"]) == (3, 3)


def test_wait_says_when_its_time_is_over(server: Scripted) -> None:
    server.on("WaitExecution", waited(RUNNING))
    ran = skybridge(server, "--timeout", "1ms", "executions", "wait", ID, "-o", "name")
    assert (ran.code, ran.text) == (124, f"{NAME}\n")
    assert "--timeout gives more time" in ran.stderr


def test_cancel_and_delete(server: Scripted) -> None:
    server.on("CancelExecution", service.CancelExecutionResponse(execution=RUNNING))
    server.on("DeleteExecution", service.DeleteExecutionResponse())
    assert skybridge(server, "executions", "cancel", ID, "-o", "name").text == f"{NAME}\n"
    assert skybridge(server, "executions", "delete", ID).stdout == b""
    assert server.asked("DeleteExecution")[0].name == ID


def entry(data: bytes, stream: OutputStream.ValueType = STDOUT) -> Message:
    return service.ReadLogsResponse(execution=NAME, output=Output(stream=stream, data=data))


def test_logs_go_where_they_were_written_to(server: Scripted) -> None:
    gap = Gap(stream=STDERR, length=7, reason=GapReason.GAP_REASON_RUNTIME_UNAVAILABLE)
    missing = service.ReadLogsResponse(execution=NAME, gap=gap)
    server.on("ReadLogs", entry(b"\xffout"), entry(b"err\n", STDERR), missing)
    ran = skybridge(server, "logs", "hello")
    assert ran.stdout == b"\xffout"
    assert ran.stderr == "err\nskybridge: 7 bytes of stderr were not kept: runtime unavailable\n"


def test_logs_for_programs(server: Scripted) -> None:
    server.on("ReadLogs", entry(b"a"), entry(b"b"))
    assert len(skybridge(server, "logs", "hello", "--json").text.splitlines()) == 2


def test_options_of_logs(server: Scripted) -> None:
    server.on("ReadLogs", entry(b"a")).on("ReadLogs", entry(b"a"))
    skybridge(
        server,
        *("logs", "-f", "hello", "--tail", "5", "--since", "2026-01-31T00:00:00Z"),
        *("--stream", "stderr"),
    )
    skybridge(server, "logs", ID)
    full, bare = server.asked("ReadLogs")
    assert (full.name, full.follow, full.tail_lines, full.stream) == ("hello", True, 5, STDERR)
    assert full.since.ToDatetime(dt.UTC) == dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    assert bare.name == NAME
    assert not bare.HasField("since")


@pytest.mark.parametrize("since", ["yesterday", "5 apples"])
def test_a_wrong_moment_is_refused(since: str, server: Scripted) -> None:
    ran = skybridge(server, "logs", "hello", "--since", since)
    assert (ran.code, server.requests) == (2, [])
    assert "is neither like 5m" in ran.stderr
