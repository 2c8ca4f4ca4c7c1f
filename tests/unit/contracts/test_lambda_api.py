"""The Lambda contract: a runtime that a test plays itself, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.contracts import lambda_api
from skybridge_server.contracts.delivery import CHUNK_BYTES, HIGH_WATER_BYTES
from skybridge_server.contracts.heads import MAX_HEAD_BYTES
from skybridge_server.contracts.lambda_api import LambdaConversation
from skybridge_server.contracts.lambda_errors import failure_in, failure_of
from skybridge_server.contracts.lambda_events import environment
from skybridge_server.errors import (
    InitError,
    InstanceGoneError,
    InvalidArgumentError,
    ProtocolError,
)
from skybridge_server.models.executions import Failure, FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import FunctionName
from tests.support.instances import Output, a_call
from tests.support.waiting import PATIENCE, until

HELLO = FunctionName("default", "hello")
ROOT = "/2018-06-01/runtime"
NEXT = f"GET {ROOT}/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class Runtime:
    """One connection of a runtime to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def heard(self) -> tuple[int, dict[str, str], bytes]:
        """Read a response: status, fields with names in lower case, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(fields["content-length"]))
        return int(first.split(" ")[1]), fields, body

    async def next(self) -> tuple[dict[str, str], bytes]:
        self.say(NEXT)
        status, fields, body = await self.heard()
        assert status == 200
        return fields, body

    async def post(self, path: str, body: bytes, **headers: str) -> int:
        fields = "".join(f"{name.replace('_', '-')}: {v}\r\n" for name, v in headers.items())
        head = f"POST {ROOT}/{path} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        self.say(head.encode() + body)
        return (await self.heard())[0]

    async def closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            assert await self.reader.read() == b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class World:
    """A conversation, and as many connections to it as a test wants."""

    def __init__(self) -> None:
        self.conversation = LambdaConversation(HELLO, 3)
        self._runtimes: list[Runtime] = []

    async def connect(self) -> Runtime:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.conversation.accepted(ours)
        runtime = Runtime(*await asyncio.open_connection(sock=theirs))
        self._runtimes.append(runtime)
        return runtime

    def calling(self, output: Output | None = None, **call: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.conversation.call(a_call(**call), output or Output()))

    async def close(self) -> None:
        await self.conversation.close()
        for runtime in self._runtimes:
            await runtime.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with asyncio.timeout(PATIENCE):
        yield world
    await world.close()


@pytest.fixture
async def runtime(world: World) -> Runtime:
    return await world.connect()


# -- the way of an execution ----------------------------------------------------------------------


async def test_ready_with_the_first_poll(world: World, runtime: Runtime) -> None:
    waiting = asyncio.create_task(world.conversation.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    runtime.say(NEXT)
    await waiting


async def test_many_executions_over_one_connection(world: World, runtime: Runtime) -> None:
    for number in range(5):
        output = Output()
        calling = world.calling(output, input_=b"%d" % number, execution=f"e{number}")
        fields, event = await runtime.next()
        assert (fields["lambda-runtime-aws-request-id"], event) == (f"e{number}", b"%d" % number)
        path = f"invocation/e{number}/response"
        assert await runtime.post(path, event * 2, Content_Type="application/json") == 202
        answer = await calling
        assert answer.failure is None
        assert (answer.content_type, answer.status) == ("application/json", 0)
        assert answer.reusable
        assert output.whole == b"%d" % number * 2


async def test_a_poll_that_waits_gets_the_next_execution(world: World, runtime: Runtime) -> None:
    runtime.say(NEXT)
    await world.conversation.ready()
    calling = world.calling()
    _, fields, _ = await runtime.heard()
    assert await runtime.post("invocation/e1/response", b"") == 202
    assert (await calling).failure is None
    assert fields["lambda-runtime-aws-request-id"] == "e1"


async def test_several_at_once(world: World) -> None:
    """As many as there are polls, answered in any order."""
    runtimes = [await world.connect() for _ in range(3)]
    outputs = {f"e{number}": Output() for number in range(5)}
    calls = {name: world.calling(output, execution=name) for name, output in outputs.items()}
    fetched = [(await runtime.next())[0]["lambda-runtime-aws-request-id"] for runtime in runtimes]
    assert fetched == ["e0", "e1", "e2"]
    for runtime, name in reversed([*zip(runtimes, fetched, strict=True)]):
        assert await runtime.post(f"invocation/{name}/response", name.encode()) == 202
        await calls[name]
        assert outputs[name].whole == name.encode()
    for name in ("e3", "e4"):
        fields, _ = await runtimes[0].next()
        assert fields["lambda-runtime-aws-request-id"] == name
        assert await runtimes[0].post(f"invocation/{name}/response", b"") == 202
        await calls[name]


async def test_answers_may_come_on_another_connection(world: World, runtime: Runtime) -> None:
    calling = world.calling()
    await runtime.next()
    other = await world.connect()
    assert await other.post("invocation/e1/response", b"") == 202
    assert (await calling).failure is None


async def test_an_execution_that_was_given_up_is_not_handed_out(
    world: World, runtime: Runtime
) -> None:
    given_up, calling = world.calling(execution="e1"), world.calling(execution="e2")
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    fields, _ = await runtime.next()
    assert fields["lambda-runtime-aws-request-id"] == "e2"
    assert await runtime.post("invocation/e2/response", b"") == 202
    await calling


async def test_a_late_answer_is_taken_and_dropped(world: World, runtime: Runtime) -> None:
    """A runtime ends itself when it is refused, and others of its executions may still run."""
    given_up = world.calling(execution="e1")
    await runtime.next()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await runtime.post("invocation/e1/response", b"x" * HIGH_WATER_BYTES * 4) == 202
    calling = world.calling(execution="e2")
    fields, _ = await runtime.next()
    assert fields["lambda-runtime-aws-request-id"] == "e2"
    assert await runtime.post("invocation/e2/response", b"") == 202
    await calling


# -- what the function is told --------------------------------------------------------------------


async def test_the_event(world: World, runtime: Runtime) -> None:
    context = {"custom": {"a": "ü"}, "client": {"app_title": "x"}}
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    calling = world.calling(
        input_=b'{"a": 1}',
        content_type="application/json",
        traceparent=traceparent,
        headers={
            "X-Amz-Client-Context": base64.b64encode(json.dumps(context).encode()).decode(),
            "X-Amz-Tenant-Id": "blue",
            "Tracestate": "a=b",
            "X-Not-Told": "1",
        },
    )
    fields, event = await runtime.next()
    assert event == b'{"a": 1}'
    assert json.loads(fields.pop("lambda-runtime-client-context")) == {
        **context,
        "w3c": {"traceparent": traceparent, "tracestate": "a=b"},
    }
    assert fields.pop("lambda-runtime-invocation-id")
    assert fields == {
        "content-type": "application/json",
        "content-length": "8",
        "lambda-runtime-aws-request-id": "e1",
        "lambda-runtime-deadline-ms": "4105080000123",
        "lambda-runtime-invoked-function-arn": (
            "arn:aws:lambda:us-east-1:000000000000:function:hello:3"
        ),
        "lambda-runtime-trace-id": (
            "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"
        ),
        "lambda-runtime-aws-tenant-id": "blue",
        "x-skybridge-execution-id": "e1",
    }
    calling.cancel()


@pytest.mark.parametrize(
    ("input_", "content_type", "told"),
    [
        (b"", "", ("application/json", b"{}")),
        (b"", "application/json", ("application/json", b"{}")),
        (b"", "text/plain", ("text/plain", b"")),
        (b"x", "", ("application/json", b"x")),
    ],
)
async def test_an_event_of_few_words(
    world: World, runtime: Runtime, input_: bytes, content_type: str, told: tuple[str, bytes]
) -> None:
    calling = world.calling(input_=input_, content_type=content_type)
    fields, event = await runtime.next()
    assert (fields["content-type"], event) == told
    assert "lambda-runtime-trace-id" not in fields
    assert "lambda-runtime-client-context" not in fields
    calling.cancel()


@pytest.mark.parametrize(
    "call",
    [
        {"headers": {"x-amz-client-context": "{}"}},
        {"headers": {"x-amz-client-context": base64.b64encode(b"[]").decode()}},
        {"headers": {"x-amz-client-context": base64.b64encode(b"[" * 100_000).decode()}},
        {"headers": {"x-amz-tenant-id": "a\r\nX: 1"}},
        {"content_type": "a\nb"},
        {"execution": "e\r\n1"},
    ],
)
async def test_what_cannot_be_told(world: World, runtime: Runtime, call: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="headers"):
        await world.calling(**call)
    calling = world.calling(execution="e2")
    assert (await runtime.next())[0]["lambda-runtime-aws-request-id"] == "e2"
    calling.cancel()


def test_the_environment() -> None:
    spec = FunctionSpec("image", env={"MINE": "1", "AWS_REGION": "eu-west-1"})
    assert environment(spec, HELLO, 3) == {
        "MINE": "1",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "3",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
        "AWS_LAMBDA_LOG_STREAM_NAME": "default/3",
        "SKYBRIDGE_FUNCTION": "namespaces/default/functions/hello",
        "SKYBRIDGE_REVISION": "3",
    }
    several = environment(spec, HELLO, 3, max_concurrency=4)
    assert several["AWS_LAMBDA_MAX_CONCURRENCY"] == "4"


# -- failures of the function ---------------------------------------------------------------------


async def test_an_error(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    error = b'{"errorType": "ValueError", "errorMessage": "oops", "stackTrace": []}'
    status = await runtime.post(
        "invocation/e1/error", error, Lambda_Runtime_Function_Error_Type="Function.ValueError"
    )
    assert status == 202
    answer = await calling
    assert answer.failure == Failure(FailureReason.FUNCTION_ERROR, "ValueError: oops")
    assert answer.reusable
    assert output.whole == error


async def test_an_error_larger_than_what_is_read_of_it(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    error = b'{"errorMessage": "' + b"x" * 1024 * 1024 + b'"}'
    await runtime.post("invocation/e1/error", error, Lambda_Runtime_Function_Error_Type="Big")
    answer = await calling
    assert answer.failure == Failure(FailureReason.FUNCTION_ERROR, "Big")
    assert output.whole == error


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({}, b"", "the function failed and did not say why"),
        ({"lambda-runtime-function-error-type": "A.B"}, b"garbage", "A.B"),
        ({"lambda-runtime-function-error-type": "A.B"}, b"[" * 60_000, "A.B"),
        ({}, b'["a"]', "the function failed and did not say why"),
        ({}, b'{"errorMessage": 1, "errorType": "T"}', "T"),
        ({}, b'{"errorMessage": "%b"}' % (b"x" * 5000), "x" * 1000),
    ],
)
def test_what_an_error_says(headers: dict[str, str], body: bytes, message: str) -> None:
    assert failure_of(headers, body) == Failure(FailureReason.FUNCTION_ERROR, message)


def test_an_error_in_trailers() -> None:
    body = base64.b64encode(b'{"errorMessage": "late", "errorType": "T"}').decode()
    kind = {"lambda-runtime-function-error-type": "X"}
    assert failure_in({}) is None
    for trailers, message in (
        (kind | {"lambda-runtime-function-error-body": body}, "T: late"),
        (kind | {"lambda-runtime-function-error-body": "!"}, "X"),
        (kind, "X"),
    ):
        assert failure_in(trailers) == Failure(FailureReason.FUNCTION_ERROR, message)


@pytest.mark.parametrize("polled_before", [False, True])
async def test_an_init_error(world: World, runtime: Runtime, polled_before: bool) -> None:
    calling = world.calling()
    if polled_before:
        await (await world.connect()).next()
    error = b'{"errorMessage": "No module", "errorType": "Runtime.ImportModuleError"}'
    assert await runtime.post("init/error", error) == 202
    for waiting in (world.conversation.ready(), calling, world.calling()):
        with pytest.raises(InitError, match=r"Runtime\.ImportModuleError: No module"):
            await waiting


# -- streaming ------------------------------------------------------------------------------------

STREAMING = (
    f"POST {ROOT}/invocation/e1/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
    "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()


async def test_chunks_are_handed_on_while_they_arrive(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    runtime.say(STREAMING)
    for word in (b"one", b"two", b"three"):
        output.grew.clear()
        runtime.say(b"%x\r\n%b\r\n" % (len(word), word))
        await output.grew.wait()
    runtime.say(b"0\r\n\r\n")
    assert (await runtime.heard())[0] == 202
    answer = await calling
    assert (answer.failure, answer.content_type) == (None, "application/octet-stream")
    assert output.chunks == [b"one", b"two", b"three"]


async def test_an_error_in_the_middle_of_a_stream(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    error = base64.b64encode(b'{"errorMessage": "late", "errorType": "T"}')
    runtime.say(STREAMING + b"3\r\none\r\n0\r\nLambda-Runtime-Function-Error-Type: T\r\n")
    runtime.say(b"Lambda-Runtime-Function-Error-Body: " + error + b"\r\n\r\n")
    assert (await runtime.heard())[0] == 202
    answer = await calling
    assert answer.failure == Failure(FailureReason.FUNCTION_ERROR, "T: late")
    assert output.whole == b"one"


async def test_a_slow_sink_holds_the_instance_back(world: World, runtime: Runtime) -> None:
    size = 32 * 1024 * 1024
    output = Output()
    output.free.clear()
    calling = world.calling(output)
    await runtime.next()
    posting = asyncio.create_task(runtime.post("invocation/e1/response", b"x" * size))
    await output.grew.wait()
    assert not posting.done()
    output.free.set()
    assert await posting == 202
    await calling
    assert len(output.whole) == size
    assert max(map(len, output.chunks)) <= CHUNK_BYTES


async def test_a_client_that_asks_before_it_sends(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    head = f"POST {ROOT}/invocation/e1/response HTTP/1.1\r\n"
    runtime.say(f"{head}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n".encode())
    assert await runtime.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    runtime.say(b"world")
    assert (await runtime.heard())[0] == 202
    await calling
    assert output.whole == b"world"


@pytest.mark.parametrize("version", ["1.0", "1.1\r\nConnection: close"])
async def test_a_client_with_a_connection_for_each_request(world: World, version: str) -> None:
    calling = world.calling()
    first = await world.connect()
    first.say(NEXT.replace(b"1.1", version.encode()))
    await first.heard()
    await first.closed()
    second = await world.connect()
    path = f"{ROOT}/invocation/e1/response"
    second.say(f"POST {path} HTTP/{version}\r\nContent-Length: 2\r\n\r\nok".encode())
    assert (await second.heard())[0] == 202
    await second.closed()
    assert (await calling).failure is None


# -- runtimes that do what they should not --------------------------------------------------------


@pytest.mark.parametrize("what", ["response", "error"])
async def test_executions_that_are_not_its_own(world: World, runtime: Runtime, what: str) -> None:
    waiting = world.calling(execution="e2")
    await asyncio.sleep(0)
    for name in ("e1", "e2", "..", "%2e"):
        assert await runtime.post(f"invocation/{name}/{what}", b"x") == 400
    fields, _ = await runtime.next()
    assert fields["lambda-runtime-aws-request-id"] == "e2"
    assert await runtime.post("invocation/e2/response", b"") == 202
    assert (await waiting).failure is None


async def test_a_second_answer(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    assert await runtime.post("invocation/e1/response", b"first") == 202
    assert await runtime.post("invocation/e1/response", b"second") == 400
    await calling
    assert output.whole == b"first"


async def test_an_answer_to_another_invocation(world: World, runtime: Runtime) -> None:
    calling = world.calling()
    fields, _ = await runtime.next()
    path = "invocation/e1/response"
    assert await runtime.post(path, b"x", Lambda_Runtime_Invocation_Id="another") == 400
    own = fields["lambda-runtime-invocation-id"]
    assert await runtime.post(path, b"x", Lambda_Runtime_Invocation_Id=own) == 202
    await calling


async def test_a_response_mode_that_nobody_knows(world: World, runtime: Runtime) -> None:
    calling = world.calling()
    await runtime.next()
    path = "invocation/e1/response"
    assert await runtime.post(path, b"x", Lambda_Runtime_Function_Response_Mode="odd") == 400
    with pytest.raises(ProtocolError, match="response mode 'odd'"):
        await calling


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", f"{ROOT}/invocation/next"),
        ("GET", f"{ROOT}/invocation/e1/response"),
        ("POST", f"{ROOT}/invocation/e1/response/"),
        ("POST", f"{ROOT}/invocation/a/b/response"),
        ("GET", f"{ROOT}/restore/next"),
        ("POST", "/2020-01-01/extension/register"),
        ("GET", f"http://127.0.0.1:9001{ROOT}/invocation/next"),
    ],
)
async def test_paths_that_are_not_there(
    world: World, runtime: Runtime, method: str, path: str
) -> None:
    runtime.say(f"{method} {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy".encode())
    status, _, body = await runtime.heard()
    assert (status, json.loads(body)["errorType"]) == (404, "NotFound")
    runtime.say(NEXT)
    await world.conversation.ready()


RESPONSE = f"POST {ROOT}/invocation/e1/response HTTP/1.1\r\n".encode()
GARBAGE = {
    "garbage": b"hello\r\n\r\n",
    "bare LF": NEXT.replace(b"\r\n", b"\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "length and encoding": RESPONSE
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n",
    "different lengths": RESPONSE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nworld!",
    "bad chunk": RESPONSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "folded line": RESPONSE + b"X: 1\r\n 2\r\n\r\n",
    "endless head": RESPONSE + b"X: 1\r\n" * (MAX_HEAD_BYTES // 6 + 1),
    "a request before the answer to the last": NEXT + NEXT,
    "more than announced": NEXT[:-2] + b"Content-Length: 1\r\n\r\nxy",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_ends_all(world: World, runtime: Runtime, garbage: bytes) -> None:
    calling = world.calling()
    await runtime.next()
    (await world.connect()).say(garbage)
    for waiting in (calling, world.calling(execution="e2"), world.conversation.ready()):
        with pytest.raises(ProtocolError):
            await waiting


async def test_a_response_that_is_cut_short(world: World, runtime: Runtime) -> None:
    output = Output()
    calling = world.calling(output)
    await runtime.next()
    runtime.say(STREAMING + b"5\r\nwor")
    await output.grew.wait()
    await runtime.close()
    with pytest.raises(InstanceGoneError, match="inside a request"):
        await calling


async def test_a_poll_that_went_away_gets_no_work(world: World, runtime: Runtime) -> None:
    runtime.say(NEXT)
    await world.conversation.ready()
    await runtime.close()

    async def gone() -> bool:
        return not world.conversation._connections

    await until(gone, "a connection that is lost")
    calling = world.calling()
    fields, _ = await (await world.connect()).next()
    assert fields["lambda-runtime-aws-request-id"] == "e1"
    calling.cancel()


async def test_the_instance_has_ended(world: World, runtime: Runtime) -> None:
    waiting, fetched = world.calling(), world.calling(execution="e2")
    await runtime.next()
    await world.conversation.close()
    conversation = world.conversation
    for each in (waiting, fetched, conversation.ready(), conversation.connect(), world.calling()):
        with pytest.raises(InstanceGoneError, match="has ended"):
            await each
    await runtime.closed()
    await (await world.connect()).closed()


async def test_too_many_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_api, "MAX_CONNECTIONS", 2)
    first, second, third = [await world.connect() for _ in range(3)]
    await third.closed()
    for runtime in (first, second):
        calling = world.calling()
        await runtime.next()
        assert await runtime.post("invocation/e1/response", b"") == 202
        await calling


async def test_a_sink_that_fails_lets_the_rest_go(world: World, runtime: Runtime) -> None:
    def fails(data: bytes) -> None:
        raise OSError(f"no room for {len(data)} bytes")

    calling = asyncio.create_task(world.conversation.call(a_call(), fails))
    await runtime.next()
    assert await runtime.post("invocation/e1/response", b"x" * HIGH_WATER_BYTES * 4) == 202
    with pytest.raises(OSError, match="no room"):
        await calling


@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([NEXT, RESPONSE, b"\r\n", b"Content-Length: 3\r\n\r\nabc", STREAMING]),
        ),
        max_size=6,
    )
)
def test_garbage_never_hangs_or_breaks_us(parts: list[bytes]) -> None:
    """Whatever comes: it is refused, or it waits, and close ends it."""

    async def run() -> None:
        world = World()
        calling = world.calling()
        runtime = await world.connect()
        for part in parts:
            runtime.say(part)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                await runtime.writer.drain()
            await asyncio.sleep(0)
            await world.close()
            with contextlib.suppress(ProtocolError, InstanceGoneError):
                await calling

    asyncio.run(run())
