from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo

from skybridge.faas.v1 import execution_service_pb2 as service
from skybridge.faas.v1.execution_pb2 import Heartbeat
from skybridge_client.messages import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    Failure,
    FailureReason,
    Gap,
    GapReason,
    InputAck,
)
from tests.client.commands import skybridge
from tests.client.events import NAME, STDERR, STDOUT, output, result
from tests.client.scripted import CUT, Abort, Scripted, Step, Visit, hang
from tests.support.waiting import PATIENCE

ID = NAME.rpartition("/")[2]
State = ExecutionState
Reason = FailureReason


def streamed(*events: ExecutionEvent) -> list[Message]:
    return [service.StreamExecutionResponse(event=event) for event in events]


def watched(*events: ExecutionEvent) -> list[Message]:
    return [service.WatchExecutionResponse(event=event) for event in events]


def ended(
    state: ExecutionState.ValueType,
    reason: FailureReason.ValueType = Reason.FAILURE_REASON_UNSPECIFIED,
    message: str = "",
    exit_code: int = 0,
    signal_number: int = 0,
) -> Execution:
    failure = Failure(reason=reason, message=message, signal=signal_number)
    return Execution(name=NAME, state=state, exit_code=exit_code, failure=failure)


# Output


def test_stdout_goes_to_stdout_and_stderr_to_stderr_byte_for_byte(server: Scripted) -> None:
    data = bytes(range(256))
    server.on("StreamExecution", *streamed(output(1, data), output(2, b"log\n", STDERR), result(3)))
    ran = skybridge(server, "run", "hello")
    assert (ran.code, ran.stdout, ran.stderr) == (0, data, "log\n")


def test_a_cut_is_not_seen(server: Scripted) -> None:
    server.on("StreamExecution", *streamed(output(1, b"a")), CUT)
    server.on("WatchExecution", *watched(output(1, b"a"), output(2, b"b"), result(3)))
    assert skybridge(server, "run", "hello").stdout == b"ab"


def test_json_is_a_line_for_each_event(server: Scripted) -> None:
    failed = ended(State.EXECUTION_STATE_FAILED, Reason.FAILURE_REASON_OUT_OF_MEMORY, "too big")
    server.on("StreamExecution", *streamed(output(1), result(2, failed)))
    ran = skybridge(server, "run", "hello", "--json")
    assert [line[:12] for line in ran.text.splitlines()] == ['{"execution"'] * 2
    assert (ran.code, ran.stderr) == (137, "")


@pytest.mark.parametrize(("length", "said"), [(5, "5 bytes"), (None, "some bytes")])
def test_missing_output_is_told(length: int | None, said: str, server: Scripted) -> None:
    gap = Gap(stream=STDOUT, reason=GapReason.GAP_REASON_OUTPUT_LIMIT, length=length)
    event = ExecutionEvent(execution=NAME, sequence=1, gap=gap)
    server.on("StreamExecution", *streamed(event, result(2)))
    ran = skybridge(server, "run", "hello")
    assert ran.stderr == f"skybridge: {said} of stdout were not kept: output limit\n"


# Verdicts


@pytest.mark.parametrize(
    ("execution", "code", "said"),
    [
        (ended(State.EXECUTION_STATE_SUCCEEDED), 0, ""),
        (
            ended(State.EXECUTION_STATE_FAILED, Reason.FAILURE_REASON_EXIT_CODE, "exit code 3", 3),
            3,
            "",
        ),
        (
            ended(
                State.EXECUTION_STATE_FAILED,
                Reason.FAILURE_REASON_SIGNAL,
                "signal 11",
                signal_number=11,
            ),
            139,
            "skybridge: signal 11\n",
        ),
        (
            ended(State.EXECUTION_STATE_FAILED, Reason.FAILURE_REASON_OUT_OF_MEMORY, "a\nb"),
            137,
            "skybridge: a b\n",
        ),
        (
            ended(State.EXECUTION_STATE_FAILED, Reason.FAILURE_REASON_ENTRY_POINT, "no sh"),
            127,
            "skybridge: no sh\n",
        ),
        (
            ended(State.EXECUTION_STATE_FAILED, Reason.FAILURE_REASON_START_FAILED, "odd"),
            125,
            "skybridge: odd\n",
        ),
        (
            ended(
                State.EXECUTION_STATE_TIMED_OUT,
                Reason.FAILURE_REASON_EXECUTION_TIMEOUT,
                "too long",
            ),
            124,
            "skybridge: too long\n",
        ),
        (
            ended(State.EXECUTION_STATE_CANCELLED, Reason.FAILURE_REASON_CANCELLED, "gone"),
            130,
            "skybridge: gone\n",
        ),
    ],
)
def test_the_verdict_is_the_exit_code(
    execution: Execution, code: int, said: str, server: Scripted
) -> None:
    server.on("StreamExecution", *streamed(result(1, execution)))
    ran = skybridge(server, "run", "hello")
    assert (ran.code, ran.stderr) == (code, said)


@pytest.mark.parametrize(
    ("code", "exits"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.UNAVAILABLE, 69),
        (grpc.StatusCode.INTERNAL, 70),
        (grpc.StatusCode.UNIMPLEMENTED, 70),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 75),
        (grpc.StatusCode.PERMISSION_DENIED, 77),
        (grpc.StatusCode.UNAUTHENTICATED, 77),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 124),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    code: grpc.StatusCode, exits: int, server: Scripted
) -> None:
    server.on("CancelExecution", Abort(code, "no way", reason="SCRIPTED"))
    ran = skybridge(server, "executions", "cancel", "e")
    assert ran.code == exits
    assert ran.stderr.startswith("skybridge: no way")
    assert ran.stderr.count("\n") == 1


def test_a_missing_server_is_told_with_the_way_out() -> None:
    ran = skybridge(None, "--address", "127.0.0.1:1", "executions", "cancel", "e")
    assert ran.code == 69
    assert "no server answers at 127.0.0.1:1: start one with `skybridge-server" in ran.stderr


def test_a_full_queue_says_when_to_come_back(server: Scripted) -> None:
    retry = RetryInfo(retry_delay=Duration(seconds=2))
    refusal = Abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="FULL", details=(retry,))
    server.on("StartExecution", refusal)
    ran = skybridge(server, "start", "hello")
    assert ran.stderr == "skybridge: full (try again in 2 s)\n"


def test_a_timeout_is_told_with_the_way_out(server: Scripted) -> None:
    server.on("StreamExecution", *streamed(output(1)), hang)
    ran = skybridge(server, "--timeout", "200ms", "run", "hello")
    assert ran.code == 124
    assert "--timeout gives more time" in ran.stderr


# Input


def test_input_is_the_argument_the_file_or_what_is_piped(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"\x00file")
    for _ in range(4):
        server.on("StreamExecution", *streamed(result(1)))
    skybridge(server, "run", "hello", "Ada", stdin=b"not this")
    skybridge(server, "run", "hello", "--file", str(file), stdin=b"not this")
    skybridge(server, "run", "hello", stdin=b"piped\xff")
    skybridge(server, "run", "hello", "--file", "-", stdin=b"asked for")
    inputs = [request.input for request in server.asked("StreamExecution")]
    assert inputs == [b"Ada", b"\x00file", b"piped\xff", b"asked for"]


def test_options_of_an_execution(server: Scripted) -> None:
    server.on("StreamExecution", *streamed(result(1)))
    skybridge(server, "run", "hello", "x", "--label", "a=b", "--run-timeout", "2s")
    [request] = server.asked("StreamExecution")
    assert dict(request.options.labels) == {"a": "b"}
    assert request.options.timeout.seconds == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "hello", "a", "--file", "b"), "exclude each other"),
        (("run", "hello", "--file", "/nowhere/x"), "/nowhere/x: No such file"),
        (("run", "hello", "-i", "a"), "leave INPUT and --file out"),
        (("run", "hello", "a", "--label", "x"), "'x' is not of the form KEY=VALUE"),
        (("run", "hello", "a", "--run-timeout", "soon"), "'soon' is no duration"),
        (("run",), "Missing argument"),
        (("executions", "list", "--limit", "-1"), "Invalid value for '--limit'"),
        (("--tls-cert", "x", "system"), "both its cert and its key"),
        (("--tls-ca", "/nowhere/ca.pem", "system"), "TLS: [Errno 2]"),
    ],
)
def test_wrong_usage_is_told_and_asks_no_server(
    arguments: tuple[str, ...], said: str, server: Scripted
) -> None:
    ran = skybridge(server, *arguments)
    assert (ran.code, ran.stdout, server.requests) == (2, b"", [])
    assert said in ran.words


def acknowledging(visit: Visit) -> Iterator[Message]:
    """Echoes stdin as a `cat` would."""
    next(visit.request)
    yield service.AttachExecutionResponse(
        event=ExecutionEvent(execution=NAME, heartbeat=Heartbeat())
    )
    sequence = 0
    for message in visit.request:
        if message.input.data:
            sequence += 1
            yield service.AttachExecutionResponse(event=output(sequence, message.input.data))
        taken = InputAck(
            committed_bytes=message.input.offset + len(message.input.data),
            closed=message.input.end_of_input,
        )
        acked = ExecutionEvent(execution=NAME, sequence=sequence, input_ack=taken)
        yield service.AttachExecutionResponse(event=acked)
    yield service.AttachExecutionResponse(event=result(sequence + 1))


def test_interactive_passes_stdin_on(server: Scripted) -> None:
    server.on("AttachExecution", acknowledging)
    ran = skybridge(server, "run", "-i", "cat", stdin=b"x" * 100_000)
    assert (ran.code, ran.stdout) == (0, b"x" * 100_000)


# Interrupts


def interrupt(_: Visit) -> Iterator[Message]:
    os.kill(os.getpid(), signal.SIGINT)
    yield from ()


CANCELLED = ended(State.EXECUTION_STATE_CANCELLED, Reason.FAILURE_REASON_CANCELLED, "cancelled")


def until_cancelled(server: Scripted) -> Step:
    def step(visit: Visit) -> Iterator[Message]:
        while not server.asked("CancelExecution"):
            assert not visit.gone.wait(0.01)
        yield from streamed(output(2, b"bye"), result(3, CANCELLED))

    return step


def test_ctrl_c_cancels_and_shows_the_end(server: Scripted) -> None:
    before = signal.getsignal(signal.SIGINT)
    server.on("StreamExecution", *streamed(output(1, b"hi ")), interrupt, until_cancelled(server))
    server.on("CancelExecution", service.CancelExecutionResponse())
    ran = skybridge(server, "run", "slow")
    assert (ran.code, ran.stdout) == (130, b"hi bye")
    assert server.asked("CancelExecution")[0].name == NAME
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_event_cancels_with_it(server: Scripted) -> None:
    server.on("StreamExecution", interrupt, *streamed(output(1)), until_cancelled(server))
    server.on("CancelExecution", service.CancelExecutionResponse())
    assert skybridge(server, "run", "slow").code == 130


def test_a_second_ctrl_c_leaves_at_once(server: Scripted) -> None:
    def cancelled(visit: Visit) -> Iterator[Message]:
        while not server.asked("CancelExecution"):
            assert not visit.gone.wait(0.01)
        yield from ()

    steps: tuple[Step, ...] = (interrupt, cancelled, interrupt, hang)
    server.on("StreamExecution", *streamed(output(1)), *steps)
    server.on("CancelExecution", service.CancelExecutionResponse())
    assert skybridge(server, "run", "slow").code == 130


def test_a_cancel_that_fails_is_told(server: Scripted) -> None:
    server.on("StreamExecution", *streamed(output(1)), interrupt, until_cancelled(server))
    server.on("CancelExecution", Abort(grpc.StatusCode.INTERNAL, "broken", reason="INTERNAL"))
    ran = skybridge(server, "run", "slow")
    assert "skybridge: could not cancel: broken\n" in ran.stderr


def test_ctrl_c_leaves_a_watched_execution_alone(server: Scripted) -> None:
    server.on("WatchExecution", *watched(output(1)), interrupt, hang)
    assert skybridge(server, "executions", "watch", NAME).code == 130
    assert server.asked("CancelExecution") == []


def test_a_ctrl_c_that_gets_lost_in_a_call_ends_the_command_all_the_same(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: ExecutionEvent) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("skybridge_client.cli.run.show_event", lose)
    server.on("WatchExecution", *watched(output(1)), hang)
    before = signal.getsignal(signal.SIGINT)
    assert skybridge(server, "executions", "watch", NAME).code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert len(server.asked("WatchExecution")) == 1


def test_ctrl_c_that_is_ignored_stays_so(server: Scripted) -> None:
    """As shells have it for what they run in the background."""
    server.on("StreamExecution", interrupt, *streamed(output(1, b"x"), result(2)))
    server.on("WatchExecution", interrupt, *watched(output(1, b"y"), result(2)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert skybridge(server, "run", "hello").stdout == b"x"
        assert skybridge(server, "executions", "watch", NAME).stdout == b"y"
    finally:
        signal.signal(signal.SIGINT, before)


def test_who_stops_reading_cancels(server: Scripted) -> None:
    def endless(visit: Visit) -> Iterator[Message]:
        sequence = 0
        while not visit.gone.is_set():
            sequence += 1
            yield from streamed(output(sequence, b"y\n" * 1000))

    server.on("StreamExecution", endless)
    server.on("CancelExecution", service.CancelExecutionResponse())
    command = [sys.executable, "-c", "from skybridge_client.cli import main; main()"]
    arguments = ["--address", server.address, "run", "yes"]
    with subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""
    assert server.asked("CancelExecution")[0].name == NAME


def test_the_command_reads_no_stdin_that_is_not_piped(server: Scripted) -> None:
    server.on("StreamExecution", *streamed(result(1)))
    code = "from skybridge_client.cli import main; main()"
    command = [sys.executable, "-c", code, "--address", server.address, "run", "hello"]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    assert server.asked("StreamExecution")[0].input == b""


# start


def test_start_can_wait_for_its_time(server: Scripted) -> None:
    started = service.StartExecutionResponse(execution=Execution(name=NAME))
    server.on("StartExecution", started)
    assert skybridge(server, "start", "hello", "--at", "2026-01-31T12:00:00Z").code == 0
    [request] = server.asked("StartExecution")
    assert request.start_time.ToJsonString() == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("command", "rpc"), [("start", "StartExecution"), ("run", "StreamExecution")]
)
def test_a_request_id_is_passed_on(command: str, rpc: str, server: Scripted) -> None:
    server.on("StreamExecution", *streamed(result(1)))
    server.on("StartExecution", service.StartExecutionResponse(execution=Execution(name=NAME)))
    given = "6f1c2d34-0b5e-4c8a-9d3f-2a7b8c9d0e1f"
    assert skybridge(server, command, "hello", "--request-id", given).code == 0
    [request] = server.asked(rpc)
    assert request.request_id == given


def test_start_prints_the_id_and_says_how_to_follow(server: Scripted) -> None:
    started = service.StartExecutionResponse(execution=Execution(name=NAME))
    for _ in range(3):
        server.on("StartExecution", started)
    ran = skybridge(server, "start", "hello", "Ada", "--label", "a=b")
    assert ran.text == f"{ID}\n"
    assert f"skybridge executions watch {ID}" in ran.stderr
    assert skybridge(server, "start", "hello", "-o", "name").text == f"{NAME}\n"
    assert skybridge(server, "start", "hello", "--json").json == {"name": NAME}
    assert server.asked("StartExecution")[0].input == b"Ada"
