"""`skybridge batch`, as its users meet it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from skybridge.faas.v1.execution_service_pb2 import InvocationAnswer, InvokeStreamResponse
from skybridge_client.messages import Execution, ExecutionState, Failure, FailureReason
from tests.client.commands import Ran, skybridge
from tests.client.events import NAME, SUCCEEDED
from tests.client.scripted import CUT, Scripted, Visit

FAILED = ExecutionState.EXECUTION_STATE_FAILED


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.text.splitlines()]


def answering(**executions: Execution | Status) -> Any:
    """A step that answers by the input; what is not named is echoed."""

    def step(visit: Visit) -> Iterator[Message]:
        for message in visit.request:
            for each in message.invocations:
                input_ = each.execute.input
                found = executions.get(input_.decode(errors="replace"))
                answer = InvocationAnswer(id=each.id)
                if isinstance(found, Status):
                    answer.error.CopyFrom(found)
                else:
                    ended = found or Execution(name=NAME, state=SUCCEEDED, output=input_)
                    answer.execution.CopyFrom(ended)
                yield InvokeStreamResponse(answers=[answer])

    return step


def test_each_line_is_an_execution(server: Scripted) -> None:
    server.on("InvokeStream", answering())
    stdin = b'{"n": 1}\n\ntwo\r\n3'
    ran = skybridge(
        server,
        "batch",
        "hello",
        "--run-timeout",
        "3s",
        "--label",
        "a=b",
        "--window",
        "2",
        stdin=stdin,
    )
    assert (ran.code, ran.stderr) == (0, "")
    known = {"execution": NAME.rpartition("/")[2], "state": "SUCCEEDED"}
    assert lines(ran) == [
        {"line": 1, **known, "output": {"n": 1}},
        {"line": 3, **known, "output": "two"},
        {"line": 4, **known, "output": 3},
    ]
    first, *_ = server.asked("InvokeStream")
    execute = first.invocations[0].execute
    assert (first.window, execute.function) == (2, "hello")
    assert execute.options.timeout.seconds == 3
    assert dict(execute.options.labels) == {"a": "b"}


def test_a_file_and_a_stream_that_is_cut(server: Scripted, tmp_path: Path) -> None:
    server.on("InvokeStream", CUT).on("InvokeStream", answering())
    file = tmp_path / "jobs"
    file.write_bytes(b"one\ntwo\n")
    ran = skybridge(server, "batch", "hello", "--file", str(file))
    assert [each["output"] for each in lines(ran)] == ["one", "two"]


def test_what_does_not_succeed_is_told_and_counted(server: Scripted) -> None:
    failure = Failure(reason=FailureReason.FAILURE_REASON_EXIT_CODE, message="exit code 3")
    server.on(
        "InvokeStream",
        answering(
            bad=Execution(name=NAME, state=FAILED, failure=failure, output=b"\xff"),
            missing=Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such function"),
        ),
    )
    ran = skybridge(server, "batch", "hello", stdin=b"good\nbad\nmissing\n")
    assert ran.code == 1
    assert ran.stderr == "skybridge: 2 did not succeed\n"
    good, bad, missing = lines(ran)
    assert good["output"] == "good"
    assert (bad["state"], bad["output_base64"]) == ("FAILED", "/w==")
    assert bad["failure"] == {"reason": "EXIT_CODE", "message": "exit code 3"}
    assert missing["error"] == {"code": "NOT_FOUND", "reason": "", "message": "no such function"}


def test_wrong_arguments(server: Scripted, tmp_path: Path) -> None:
    missing = skybridge(server, "batch", "hello", "--file", str(tmp_path / "none"))
    assert missing.code == 2
    assert "No such file" in missing.words
    assert skybridge(server, "batch", "hello", "--window", "257").code == 2


def test_nothing_to_do(server: Scripted) -> None:
    server.on("InvokeStream", answering())
    ran = skybridge(server, "batch", "hello", stdin=b"")
    assert (ran.code, ran.stdout) == (0, b"")
