"""InvokeStream and ExecuteBatch on the wire: many executions on one call."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import execution_service_pb2 as pb
from tests.api.served import Served, all_of, refusal, serve
from tests.fakes.runtime import FakeProcess, echo
from tests.support.waiting import PATIENCE, until

SUCCEEDED = execution_pb2.EXECUTION_STATE_SUCCEEDED
CANCELLED = execution_pb2.EXECUTION_STATE_CANCELLED


@pytest.fixture
async def served() -> AsyncGenerator[Served, None]:
    """A server with `hello`, which copies stdin to stdout, deployed."""
    async with serve() as running:
        running.runtime.containers.program = echo
        await running.create(spec={"image": "busybox", "timeouts": {"shutdown_grace": {}}})
        await running.deploy()
        yield running


def asked(id_: str, input_: bytes = b"", function: str = "hello", **fields: Any) -> Any:
    """Return a message of InvokeStream."""
    window = fields.pop("window", 0)
    execute = pb.ExecuteFunctionRequest(function=function, input=input_, **fields)
    invocation = pb.Invocation(id=id_, execute=execute)
    return pb.InvokeStreamRequest(invocations=[invocation], window=window)


def wrapped(request: pb.ExecuteFunctionRequest) -> pb.InvokeStreamRequest:
    return pb.InvokeStreamRequest(invocations=[pb.Invocation(id="1", execute=request)])


async def invoke(
    served: Served, messages: Iterable[pb.InvokeStreamRequest]
) -> dict[str, pb.InvocationAnswer]:
    """Send all, then read all; an id that comes twice fails."""
    responses = await all_of(served.executions.InvokeStream(iter(messages), timeout=PATIENCE))
    answers = [answer for response in responses for answer in response.answers]
    found = {answer.id: answer for answer in answers}
    assert len(found) == len(answers)
    return found


async def one(call: Any) -> pb.InvocationAnswer:
    """Read the next answer, which comes alone."""
    (answer,) = (await call.read()).answers
    found: pb.InvocationAnswer = answer
    return found


def told(error: Status) -> tuple[int, str, list[str]]:
    """Return code, reason and wrong fields."""
    info, bad = ErrorInfo(), BadRequest()
    for detail in error.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return error.code, info.reason, [violation.field for violation in bad.field_violations]


class Gate:
    """A program that says what it got, and ends once that is let go."""

    def __init__(self) -> None:
        self.running: list[bytes] = []
        self._open: dict[bytes, asyncio.Event] = {}

    def let_go(self, name: bytes) -> None:
        self._open.setdefault(name, asyncio.Event()).set()

    async def __call__(self, process: FakeProcess) -> int:
        name = b""
        while data := await process.read():
            name += data
        self.running.append(name)
        await self._open.setdefault(name, asyncio.Event()).wait()
        await process.write(name)
        return 0

    async def runs(self, *names: bytes) -> None:
        async def there() -> bool:
            return sorted(self.running) == sorted(names)

        await until(there, f"{names} to run, and nothing else")


@pytest.fixture
def gate(served: Served) -> Gate:
    made = served.runtime.containers.program = Gate()
    return made


# -- InvokeStream --------------------------------------------------------------------------------


async def test_each_answer_belongs_to_its_message(served: Served) -> None:
    answers = await invoke(served, [asked(f"id-{n}", b"%d" % n) for n in range(20)])
    assert {id_: answer.execution.output for id_, answer in answers.items()} == {
        f"id-{n}": b"%d" % n for n in range(20)
    }
    assert {answer.execution.state for answer in answers.values()} == {SUCCEEDED}
    assert len({answer.execution.name for answer in answers.values()}) == 20


async def test_no_message_at_all(served: Served) -> None:
    assert await invoke(served, []) == {}


async def test_answers_come_as_executions_end_also_after_the_last_message(
    served: Served, gate: Gate
) -> None:
    call: Any = served.executions.InvokeStream(timeout=PATIENCE)
    for name in ("a", "b", "c"):
        await call.write(asked(name, name.encode()))
    await call.done_writing()
    await gate.runs(b"a", b"b", b"c")
    for name in ("b", "c", "a"):
        gate.let_go(name.encode())
        answer = await one(call)
        assert (answer.id, answer.execution.output) == (name, name.encode())
    assert await call.read() is grpc.aio.EOF


async def test_what_is_wrong_with_a_message_is_its_own_answer(served: Served) -> None:
    await served.create("undeployed")
    answers = await invoke(
        served,
        [
            asked("unknown", function="nobody"),
            asked("undeployed", function="undeployed"),
            asked("wrong", function="../x", request_id="x"),
            asked("big", b"x" * (3 << 20) + b"x"),
            pb.InvokeStreamRequest(invocations=[pb.Invocation(id="empty")]),
            asked(""),
            asked("x" * 129),
            asked("right", b"right"),
        ],
    )
    assert answers.pop("right").execution.output == b"right"
    assert {id_: told(answer.error) for id_, answer in answers.items()} == {
        "unknown": (StatusCode.NOT_FOUND.value[0], "NOT_FOUND", []),
        "undeployed": (StatusCode.FAILED_PRECONDITION.value[0], "FUNCTION_NOT_DEPLOYED", []),
        "wrong": (
            StatusCode.INVALID_ARGUMENT.value[0],
            "INVALID_FIELDS",
            ["function", "request_id"],
        ),
        "big": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELDS", ["input"]),
        "empty": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELDS", ["function"]),
        "": (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELDS", ["id"]),
        "x" * 128: (StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELDS", ["id"]),
    }


async def test_an_error_is_told_as_a_call_of_its_own_would_tell_it(served: Served) -> None:
    request = pb.ExecuteFunctionRequest(function="nobody")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.executions.ExecuteFunction(request)
    alone = Status.FromString(
        dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    )
    piped = await invoke(served, [wrapped(request)])
    together = await served.executions.ExecuteBatch(pb.ExecuteBatchRequest(requests=[request]))
    assert piped["1"].error == together.results[0].error == alone


async def test_an_id_is_free_again_once_it_is_answered(served: Served, gate: Gate) -> None:
    call: Any = served.executions.InvokeStream(timeout=PATIENCE)
    await call.write(asked("a", b"first"))
    await call.write(asked("a", b"second"))
    refused = await one(call)
    assert (refused.id, told(refused.error)[2]) == ("a", ["id"])
    gate.let_go(b"first")
    assert (await one(call)).execution.output == b"first"
    gate.let_go(b"third")
    await call.write(asked("a", b"third"))
    assert (await one(call)).execution.output == b"third"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_no_more_are_under_way_than_the_window(served: Served, gate: Gate) -> None:
    call: Any = served.executions.InvokeStream(timeout=PATIENCE)
    await call.write(asked("a", b"a", window=2))
    for name in ("b", "c", "d"):
        await call.write(asked(name, name.encode()))
    await gate.runs(b"a", b"b")
    gate.let_go(b"b")
    assert (await one(call)).id == "b"
    await gate.runs(b"a", b"b", b"c")
    for rest in (b"a", b"c", b"d"):
        gate.let_go(rest)
    await call.done_writing()
    rest_of = []
    while (response := await call.read()) is not grpc.aio.EOF:
        rest_of += [answer.id for answer in response.answers]
    assert sorted(rest_of) == ["a", "c", "d"]


async def test_the_server_does_not_read_what_the_window_has_no_room_for(
    served: Served, gate: Gate
) -> None:
    """Flow control holds back a caller who sends more than 64 KiB for each."""
    written = 0

    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        nonlocal written
        for n in range(200):
            yield asked(str(n), b"%03d" % n + b"x" * (1 << 20), window=1 if n == 0 else 0)
            written += 1

    call = served.executions.InvokeStream(messages())
    try:
        await gate.runs(b"000" + b"x" * (1 << 20))
        seen = -1

        async def held_back() -> bool:
            nonlocal seen
            before, seen = seen, written
            await asyncio.sleep(0.2)
            return before == written

        await until(held_back, "the caller to be held back")
        assert written < 50
    finally:
        call.cancel()


async def test_a_caller_that_goes_away_cancels_what_is_under_way(
    served: Served, gate: Gate
) -> None:
    call: Any = served.executions.InvokeStream()
    for name in ("a", "b"):
        await call.write(asked(name, name.encode()))
    await gate.runs(b"a", b"b")
    call.cancel()
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest())
    ended = [await served.ended(each.name) for each in page.executions]
    assert [each.state for each in ended] == [CANCELLED] * 2
    reasons = {each.failure.reason for each in ended}
    assert reasons == {execution_pb2.FAILURE_REASON_DISCONNECTED}


async def test_bytes_that_are_no_message_end_the_call(served: Served) -> None:
    call: Any = served.channel.stream_stream(
        "/skybridge.faas.v1.ExecutionService/InvokeStream",
        response_deserializer=pb.InvokeStreamResponse.FromString,
    )
    messages = [asked("a", b"a").SerializeToString(), b"\xff\xff"]
    refused = await refusal(lambda: all_of(call(iter(messages), timeout=PATIENCE)))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest())
    assert [(await served.ended(each.name)).state for each in page.executions] in (
        [],  # it had not begun
        [SUCCEEDED],
        [CANCELLED],
    )


async def test_a_request_id_counts_once_whatever_the_call(served: Served) -> None:
    key = str(uuid.uuid4())
    request = pb.ExecuteFunctionRequest(function="hello", input=b"x", request_id=key)
    alone = (await served.executions.ExecuteFunction(request)).execution
    piped = await invoke(served, [wrapped(request)])
    together = await served.executions.ExecuteBatch(
        pb.ExecuteBatchRequest(requests=[request, request])
    )
    names = {piped["1"].execution.name, *(each.execution.name for each in together.results)}
    assert names == {alone.name}


# -- ExecuteBatch --------------------------------------------------------------------------------


async def batch(served: Served, *requests: pb.ExecuteFunctionRequest) -> list[Any]:
    answer = await served.executions.ExecuteBatch(
        pb.ExecuteBatchRequest(requests=requests), timeout=PATIENCE
    )
    return list(answer.results)


async def test_results_are_in_the_order_of_the_requests(served: Served) -> None:
    inputs = [b"%d" % n for n in range(100)]
    results = await batch(
        served, *(pb.ExecuteFunctionRequest(function="hello", input=each) for each in inputs)
    )
    assert [each.execution.output for each in results] == inputs
    assert await batch(served) == []


async def test_what_is_wrong_with_a_request_is_its_own_result(served: Served) -> None:
    right = pb.ExecuteFunctionRequest(function="hello", input=b"x")
    wrong = pb.ExecuteFunctionRequest(function="nobody")
    first, second, third = await batch(served, right, wrong, right)
    assert first.execution.output == third.execution.output == b"x"
    assert told(second.error)[:2] == (StatusCode.NOT_FOUND.value[0], "NOT_FOUND")


async def test_a_batch_is_bounded(served: Served) -> None:
    requests = [pb.ExecuteFunctionRequest(function="hello")] * 101
    refused = await refusal(lambda: batch(served, *requests))
    assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, ["requests"])
    much = [pb.ExecuteFunctionRequest(function="hello", input=b"x" * (3 << 20))] * 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await batch(served, *much)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


async def test_output_that_does_not_fit_is_cut_and_kept(served: Served) -> None:
    input_ = b"x" * (1 << 20)
    results = await batch(served, *[pb.ExecuteFunctionRequest(function="hello", input=input_)] * 5)
    lengths = [len(each.execution.output) for each in results]
    assert sorted(lengths) == [0, 0, 1 << 20, 1 << 20, 1 << 20]
    for each in results:
        assert each.execution.output_truncated == (not each.execution.output)
        assert each.execution.stdout_bytes == 1 << 20
        kept = await served.executions.GetExecution(
            pb.GetExecutionRequest(name=each.execution.name)
        )
        assert kept.execution.output == input_


async def test_a_caller_of_a_batch_that_goes_away_cancels_it(served: Served, gate: Gate) -> None:
    requests = [pb.ExecuteFunctionRequest(function="hello", input=each) for each in (b"a", b"b")]
    call = served.executions.ExecuteBatch(pb.ExecuteBatchRequest(requests=requests))
    await gate.runs(b"a", b"b")
    call.cancel()
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest())
    ended = [await served.ended(each.name) for each in page.executions]
    assert [each.state for each in ended] == [CANCELLED] * 2
