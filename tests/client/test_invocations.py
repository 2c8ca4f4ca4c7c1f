"""Many executions on one call, and what becomes of them when it is cut."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from skybridge.faas.v1.execution_service_pb2 import (
    ExecuteBatchResponse,
    ExecuteBatchResult,
    InvocationAnswer,
    InvokeStreamRequest,
    InvokeStreamResponse,
)
from skybridge_client import (
    Answer,
    AsyncClient,
    Client,
    InvalidArgumentError,
    Invocation,
    NotFoundError,
    SkybridgeError,
    UnavailableError,
    UnimplementedError,
)
from skybridge_client.invocations import Pipeline
from skybridge_client.messages import Execution
from tests.client.conftest import QUICK, Call
from tests.client.events import NAME, SUCCEEDED
from tests.client.scripted import CUT, Abort, Scripted, Visit, hang
from tests.support.waiting import PATIENCE


def invocations(count: int) -> list[Invocation]:
    return [Invocation("hello", b"%d" % n) for n in range(count)]


def refused(code: grpc.StatusCode, reason: str = "", field: str = "") -> Status:
    status = Status(code=code.value[0], message="no")
    bad = BadRequest(field_violations=[BadRequest.FieldViolation(field=field)] if field else [])
    for detail in (ErrorInfo(reason=reason), bad):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def asked_for(visit: Visit) -> Iterator[Any]:
    for message in visit.request:
        yield from message.invocations


def echoed(*invocations: Any) -> InvokeStreamResponse:
    return InvokeStreamResponse(
        answers=[
            InvocationAnswer(
                id=each.id,
                execution=Execution(name=NAME, state=SUCCEEDED, output=each.execute.input),
            )
            for each in invocations
        ]
    )


def echo(limit: int | None = None, *, backwards: int = 1) -> Any:
    """A step that answers so many at a time, the last one first, until there are no more."""

    def step(visit: Visit) -> Iterator[Message]:
        found = itertools.islice(asked_for(visit), limit)
        while some := list(itertools.islice(found, backwards)):
            yield echoed(*reversed(some))

    return step


def outputs(answers: list[Answer]) -> list[bytes]:
    return [answer.result().output for answer in answers]


# -- a batch -------------------------------------------------------------------------------------


def test_a_batch_gives_its_answers_in_order(call: Call, server: Scripted) -> None:
    results = [
        ExecuteBatchResult(execution=Execution(name=NAME, output=b"0")),
        ExecuteBatchResult(error=refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")),
    ]
    server.on("ExecuteBatch", ExecuteBatchResponse(results=results))
    asked = [Invocation("hello", b"in", {"run_timeout": 3}), Invocation("nobody")]
    answers = call("execute_batch", asked)
    assert [answer.invocation for answer in answers] == asked
    assert answers[0].result().output == b"0"
    assert answers[0].error is None
    with pytest.raises(NotFoundError) as caught:
        answers[1].result()
    assert caught.value is answers[1].error
    assert caught.value.reason == "NOT_FOUND"
    [request] = server.asked("ExecuteBatch")
    assert [each.function for each in request.requests] == ["hello", "nobody"]
    assert request.requests[0].options.timeout.seconds == 3
    ids = {each.request_id for each in request.requests}
    assert len(ids) == 2
    assert "" not in ids


def test_a_batch_is_repeated_while_the_server_is_away(call: Call, server: Scripted) -> None:
    server.on("ExecuteBatch", CUT).on("ExecuteBatch", ExecuteBatchResponse())
    assert call("execute_batch", []) == []
    first, second = server.asked("ExecuteBatch")
    assert first == second


# -- a stream ------------------------------------------------------------------------------------


def test_answers_come_as_they_come(call: Call, server: Scripted) -> None:
    server.on("InvokeStream", echo(backwards=3))
    asked = invocations(6)
    answers = call("invoke_stream", asked, window=3)
    assert outputs(answers) == [b"2", b"1", b"0", b"5", b"4", b"3"]
    assert {answer.invocation.input for answer in answers} == {each.input for each in asked}
    first, *others = server.asked("InvokeStream")
    assert first.window == 3
    assert not any(message.window for message in others)


def test_a_stream_of_nothing(call: Call, server: Scripted) -> None:
    server.on("InvokeStream", echo())
    assert call("invoke_stream", []) == []


def test_an_error_is_the_answer_of_one(call: Call, server: Scripted) -> None:
    def step(visit: Visit) -> Iterator[Message]:
        first, second = asked_for(visit)
        wrong = refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", "function")
        yield InvokeStreamResponse(answers=[InvocationAnswer(id=first.id, error=wrong)])
        yield echoed(second)

    server.on("InvokeStream", step)
    bad, good = call("invoke_stream", invocations(2))
    assert isinstance(bad.error, InvalidArgumentError)
    assert [violation.field for violation in bad.error.violations] == ["function"]
    assert bad.execution is None
    assert good.result().output == b"1"


def test_after_a_cut_what_is_owed_is_asked_for_again(call: Call, server: Scripted) -> None:
    server.on("InvokeStream", echo(limit=3), CUT)
    server.on("InvokeStream", Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed"))
    server.on("InvokeStream", echo())
    answers = call("invoke_stream", invocations(10), window=4)
    assert outputs(answers) == [b"%d" % n for n in range(10)]
    asked: dict[bytes, set[tuple[str, str]]] = {}
    for message in server.asked("InvokeStream"):
        for each in message.invocations:
            ids = asked.setdefault(each.execute.input, set())
            ids.add((each.id, each.execute.request_id))
    assert all(len(ids) == 1 for ids in asked.values())


def test_a_stream_that_ends_too_soon_is_a_cut(call: Call, server: Scripted) -> None:
    server.on("InvokeStream", echo(limit=1)).on("InvokeStream", echo())
    assert outputs(call("invoke_stream", invocations(3))) == [b"0", b"1", b"2"]


def test_a_server_that_does_not_come_back(call: Call, server: Scripted) -> None:
    for _ in range(QUICK.tries):
        server.on("InvokeStream", CUT)
    with pytest.raises(UnavailableError):
        call("invoke_stream", invocations(3))


def test_an_older_server(call: Call, server: Scripted) -> None:
    server.on("InvokeStream", Abort(grpc.StatusCode.UNIMPLEMENTED))
    with pytest.raises(UnimplementedError):
        call("invoke_stream", invocations(3))


def test_a_source_that_fails_ends_the_stream(call: Call, server: Scripted) -> None:
    def source() -> Iterator[Invocation]:
        yield Invocation("hello")
        raise LookupError("no more")

    server.on("InvokeStream", hang)
    with pytest.raises(LookupError, match="no more"):
        call("invoke_stream", source())


@pytest.mark.parametrize("window", [0, -1, 257])
def test_a_window_that_there_is_not(call: Call, window: int) -> None:
    with pytest.raises(ValueError, match="1 to 256"):
        call("invoke_stream", [], window=window)


def endless(taken: list[int]) -> Iterator[Invocation]:
    for n in itertools.count():
        taken.append(n)
        yield Invocation("hello", b"%d" % n)


def test_leaving_ends_the_call_and_takes_no_more_than_the_window(server: Scripted) -> None:
    server.on("InvokeStream", echo())
    taken: list[int] = []
    with Client(server.address, patience=QUICK) as client:
        with closing(client.invoke_stream(endless(taken), window=5)) as answers:
            for number, answer in enumerate(answers, 1):
                assert answer.result().output == b"%d" % (number - 1)
                assert len(taken) <= number + 5 + 1
                if number == 20:
                    break
        assert server.over.wait(PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "skybridge-feed":
            thread.join(PATIENCE)
            assert not thread.is_alive()


async def test_many_streams_of_coroutines(server: Scripted) -> None:
    server.on("InvokeStream", echo()).on("InvokeStream", echo())

    async def source() -> Any:
        for each in invocations(50):
            yield each

    async def run(client: AsyncClient) -> list[bytes]:
        return [each.result().output async for each in client.invoke_stream(source(), window=7)]

    async with AsyncClient(server.address, patience=QUICK) as client:
        results = await asyncio.gather(run(client), run(client))
    assert [*results] == [[b"%d" % n for n in range(50)]] * 2


def test_what_waits_goes_in_one_message_up_to_a_size() -> None:
    pipeline = Pipeline(window=10)
    sent: list[Any] = []
    pipeline.connect(sent.append)
    for size in (1, 2, 300_000):
        pipeline.write(Invocation("hello", b"x" * size))
    small, other, big = sent
    assert isinstance(small, InvokeStreamRequest)
    assert pipeline.merge(small, other)
    assert not pipeline.merge(small, big)
    assert [each.id for each in small.invocations] == ["1", "2"]
    assert small.window == 10


def test_an_empty_answer_is_no_execution() -> None:
    with pytest.raises(SkybridgeError, match="empty"):
        Answer(Invocation("hello"), None, None).result()
