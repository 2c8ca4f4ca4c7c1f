"""The warm contracts with the programs that functions are really written for, unmodified."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from skybridge_server.contracts import http, lambda_events
from skybridge_server.contracts.base import Answer, Conversation
from skybridge_server.contracts.http import HttpConversation
from skybridge_server.contracts.lambda_api import LambdaConversation
from skybridge_server.errors import InitError
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import FunctionName
from tests.support.instances import Output, a_call, connected
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE

HELLO = FunctionName("default", "hello")
SPEC = FunctionSpec("image")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

LAMBDA = """
import pathlib, time

def handle(event, context):
    if event == "fail":
        raise ValueError("as asked")
    if isinstance(event, dict) and "together" in event:
        here = pathlib.Path(event["together"])
        (here / context.aws_request_id).touch()
        deadline = time.monotonic() + 60
        while len(list(here.iterdir())) < event["number"] and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(list(here.iterdir()))
    if event == "context":
        return {
            "request": context.aws_request_id,
            "function": context.function_name,
            "arn": context.invoked_function_arn,
            "tenant": context.tenant_id,
            "custom": context.client_context.custom,
            "remaining": context.get_remaining_time_in_millis() > 0,
        }
    return event
"""

HTTP = """
import flask
import functions_framework

@functions_framework.http
def handle(request):
    if request.data == b"fail":
        raise ValueError("as asked")
    if request.data == b"stream":
        return flask.Response((f"{number};" for number in range(100)), mimetype="text/csv")
    if request.data == b"headers":
        return dict(request.headers.items())
    return request.data, 200, {"Content-Type": request.content_type, "X-Mine": "1"}

@functions_framework.cloud_event
def handle_event(event):
    import pathlib
    pathlib.Path("seen").write_text(f"{event['id']} {event['type']} {event.data}")
"""


@contextlib.asynccontextmanager
async def program(*command: str, cwd: Path, env: dict[str, str]) -> AsyncIterator[None]:
    """Run a program; it is ended at the end, if it has not by itself."""
    with (cwd / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, cwd=cwd, env=os.environ | env, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()


async def said(conversation: Conversation, **call: Any) -> tuple[Answer, bytes]:
    output = Output()
    return await conversation.call(a_call(**call), output), output.whole


# -- awslambdaric ---------------------------------------------------------------------------------


async def _accept(server: socket.socket, conversation: LambdaConversation) -> None:
    while True:
        sock, _ = await asyncio.get_running_loop().sock_accept(server)
        conversation.accepted(sock)


@contextlib.asynccontextmanager
async def lambda_instance(
    cwd: Path, handler: str = "function.handle", max_concurrency: int = 1
) -> AsyncIterator[LambdaConversation]:
    (cwd / "function.py").write_text(LAMBDA)
    conversation = LambdaConversation(HELLO, 3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        env = lambda_events.environment(SPEC, HELLO, 3, max_concurrency=max_concurrency)
        env["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{server.getsockname()[1]}"
        accepting = asyncio.create_task(_accept(server, conversation))
        try:
            async with program("awslambdaric", handler, cwd=cwd, env=env):
                yield conversation
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await conversation.close()


async def test_a_lambda_function(tmp_path: Path) -> None:
    async with lambda_instance(tmp_path) as conversation:
        await conversation.ready()
        for number in range(20):
            answer, output = await said(conversation, input_=b'{"n": %d}' % number, content_type="")
            assert answer == Answer(None, "application/json", {}, 0, reusable=True)
            assert json.loads(output) == {"n": number}

        large = json.dumps("ü" * 1_000_000).encode()
        _, output = await said(conversation, input_=large, content_type="application/json")
        assert json.loads(output) == json.loads(large)

        custom = base64.b64encode(b'{"custom": {"a": "1"}}').decode()
        _, output = await said(
            conversation,
            input_=b'"context"',
            content_type="application/json",
            execution="e7",
            traceparent=TRACE,
            headers={"X-Amz-Client-Context": custom, "X-Amz-Tenant-Id": "blue"},
        )
        assert json.loads(output) == {
            "request": "e7",
            "function": "hello",
            "arn": "arn:aws:lambda:us-east-1:000000000000:function:hello:3",
            "tenant": "blue",
            "custom": {"a": "1"},
            "remaining": True,
        }


async def test_a_lambda_function_that_fails(tmp_path: Path) -> None:
    """It lives on: an error is an answer."""
    async with lambda_instance(tmp_path) as conversation:
        for input_, message in (
            (b'"fail"', "ValueError: as asked"),
            (b"{", "Runtime.UnmarshalError"),
        ):
            answer, output = await said(conversation, input_=input_, content_type="")
            assert answer.failure is not None
            assert answer.failure.reason is FailureReason.FUNCTION_ERROR
            assert message in answer.failure.message
            assert answer.reusable
            assert "errorMessage" in json.loads(output)
        answer, output = await said(conversation, input_=b"1", content_type="")
        assert (answer.failure, output) == (None, b"1")


async def test_a_lambda_function_that_cannot_be_initialised(tmp_path: Path) -> None:
    async with lambda_instance(tmp_path, handler="missing.handle") as conversation:
        with pytest.raises(InitError, match=r"ImportModuleError.*missing"):
            await conversation.ready()


async def test_a_lambda_function_that_does_several_at_once(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    event = json.dumps({"together": str(here), "number": 3}).encode()
    async with lambda_instance(tmp_path, max_concurrency=3) as conversation:
        outputs = await asyncio.gather(
            *(
                said(conversation, input_=event, content_type="", execution=f"e{number}")
                for number in range(3)
            )
        )
    assert [output for _, output in outputs] == [b"3"] * 3


# -- Functions Framework --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def framework_instance(
    cwd: Path, target: str, signature: str, health_path: str = ""
) -> AsyncIterator[HttpConversation]:
    (cwd / "function.py").write_text(HTTP)
    port = free_port()
    command = ("functions_framework", "--source", "function.py")
    env = http.environment(SPEC, HELLO, 3, port)
    env |= {
        "HOST": "127.0.0.1",
        "FUNCTION_TARGET": target,
        "FUNCTION_SIGNATURE_TYPE": signature,
        # It may take as long as it likes to end; tests do not wait for that.
        "CLOUD_RUN_TIMEOUT_SECONDS": "1",
    }
    conversation = HttpConversation(
        lambda: connected(("127.0.0.1", port)), HELLO, health_path=health_path
    )
    async with program(*command, cwd=cwd, env=env):
        try:
            await conversation.ready()
            yield conversation
        finally:
            await conversation.close()


async def test_an_http_function(tmp_path: Path) -> None:
    async with framework_instance(tmp_path, "handle", "http", health_path="/") as conversation:
        for number in range(20):
            answer, output = await said(conversation, input_=b"%d" % number)
            assert (answer.failure, answer.status, output) == (None, 200, b"%d" % number)
            assert answer.content_type.startswith("text/plain")
            assert answer.headers["x-mine"] == "1"

        large = bytes(range(256)) * 4096 * 3
        assert (await said(conversation, input_=large))[1] == large

        answer, output = await said(conversation, input_=b"stream")
        assert answer.content_type.startswith("text/csv")
        assert output == b"".join(b"%d;" % number for number in range(100))

        _, output = await said(
            conversation, input_=b"headers", traceparent=TRACE, headers={"X-Asked": "ü"}
        )
        headers = json.loads(output)
        assert headers["Host"] == "hello.default"
        assert headers["Traceparent"] == TRACE
        assert headers["Function-Execution-Id"] == headers["X-Skybridge-Execution-Id"] == "e1"
        assert headers["X-Asked"] == "ü"

        answer, output = await said(conversation, input_=b"fail")
        assert answer.failure is not None
        assert answer.failure.message == "the function answered 500 Internal Server Error"
        assert b"Internal Server Error" in output
        assert answer.reusable

        outputs = await asyncio.gather(*(said(conversation, input_=b"%d" % n) for n in range(20)))
        assert [output for _, output in outputs] == [b"%d" % number for number in range(20)]


async def test_a_function_of_cloud_events(tmp_path: Path) -> None:
    async with framework_instance(tmp_path, "handle_event", "cloudevent") as conversation:
        answer, _ = await said(
            conversation,
            input_=b'{"a": 1}',
            content_type="application/json",
            headers={
                "ce-specversion": "1.0",
                "ce-id": "binary",
                "ce-type": "t",
                "ce-source": "/s",
            },
        )
        assert answer.failure is None
        assert (tmp_path / "seen").read_text() == "binary t {'a': 1}"

        event = {"specversion": "1.0", "id": "structured", "type": "t", "source": "/s", "data": [2]}
        answer, _ = await said(
            conversation,
            input_=json.dumps(event).encode(),
            content_type="application/cloudevents+json",
        )
        assert answer.failure is None
        assert (tmp_path / "seen").read_text() == "structured t [2]"

        answer, _ = await said(conversation, input_=b"{}", content_type="application/json")
        assert answer.failure is not None
        assert answer.status == 400
