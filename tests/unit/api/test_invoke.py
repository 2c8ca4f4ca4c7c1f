"""The window of InvokeStream: how far the server reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.rpc.code_pb2 import INTERNAL

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.invoke import DEFAULT_WINDOW, MAX_WINDOW, Pipeline
from skybridge_server.errors import InvalidArgumentError
from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.services.executions import Ended
from skybridge_server.services.requests import ExecutionOutput, ExecutionRequest
from tests.support.waiting import PATIENCE, until


def one(id_: str, window: int = 0, function: str = "") -> pb.InvokeStreamRequest:
    execute = pb.ExecuteFunctionRequest(function=function)
    return pb.InvokeStreamRequest(
        invocations=[pb.Invocation(id=id_, execute=execute)], window=window
    )


async def ids(answers: AsyncGenerator[pb.InvokeStreamResponse, None]) -> list[str]:
    return [answer.id async for response in answers for answer in response.answers]


def ended(output: bytes = b"") -> Ended:
    execution = Execution(
        name=ExecutionName("default", new_id()),
        function=FunctionName("default", "hello"),
        function_uid="uid",
        revision=1,
        create_time=datetime.now(UTC),
    )
    return execution, ExecutionOutput(output, truncated=False, log_tail=b"")


class Caller:
    """Sends messages for as long as somebody reads, and counts those that were read."""

    def __init__(self, window: int, count: int) -> None:
        self._window = window
        self._count = count
        self.read = 0
        self.closed = asyncio.Event()

    async def messages(self) -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for n in range(self._count):
            self.read += 1
            yield one(str(n), window=0 if n else self._window)


def pipeline(execute: Callable[[ExecutionRequest], Awaitable[Ended]]) -> Pipeline:
    """Return one whose executions all take longer than a moment."""

    class Service:
        def begin(self, request: ExecutionRequest, *, time_left: timedelta | None) -> None:
            """Begin nothing."""

        async def execute(self, request: ExecutionRequest, *, time_left: timedelta | None) -> Ended:
            return await execute(request)

    def wanted(request: pb.ExecuteFunctionRequest) -> ExecutionRequest:
        if request.function == "unreadable":
            raise RuntimeError("secret")
        return ExecutionRequest(FunctionName("default", request.function), request.input)

    service: Any = Service()
    return Pipeline(service, wanted, lambda: None)


class Executions:
    """Executions that end when they are let go."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.gate = asyncio.Event()

    async def execute(self, _: ExecutionRequest) -> Ended:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return ended()


@pytest.mark.parametrize(
    ("asked", "window"), [(1, 1), (0, DEFAULT_WINDOW), (256, MAX_WINDOW), (1_000_000, MAX_WINDOW)]
)
async def test_no_more_is_read_than_the_window(asked: int, window: int) -> None:
    caller, executions = Caller(asked, MAX_WINDOW + 100), Executions()
    made = pipeline(executions.execute)

    async def full() -> bool:
        return executions.running == window

    async with asyncio.timeout(PATIENCE), aclosing(made.answers(caller.messages())) as answers:
        first = asyncio.create_task(anext(answers))
        await until(full, "the window to be full")
        assert caller.read == window
        executions.gate.set()
        seen = [answer.id for answer in (await first).answers]
        await asyncio.sleep(0)
        # What was not taken by the caller is still owed to him.
        assert caller.read == window
        seen += await ids(answers)
    assert sorted(seen, key=int) == [str(n) for n in range(MAX_WINDOW + 100)]


async def test_one_message_may_have_more_than_the_window() -> None:
    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        many = [pb.Invocation(id=str(n)) for n in range(10)]
        yield pb.InvokeStreamRequest(invocations=many, window=3)

    executions = Executions()
    answers = pipeline(executions.execute).answers(messages())

    async def full() -> bool:
        return executions.running == 3

    listening = asyncio.create_task(ids(answers))
    await until(full, "the window to be full")
    executions.gate.set()
    assert sorted(await listening, key=int) == [str(n) for n in range(10)]
    assert executions.most == 3


async def test_what_ends_together_is_told_together_up_to_a_size() -> None:
    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for n in range(6):
            yield one(str(n))

    async def execute(_: ExecutionRequest) -> Ended:
        return ended(b"x" * (400 << 10))

    sizes = [len(each.answers) async for each in pipeline(execute).answers(messages())]
    assert sum(sizes) == 6
    assert max(sizes) == 2


@pytest.mark.parametrize("windows", [(-1,), (2, 3)])
async def test_a_window_that_is_no_window_ends_the_call(windows: tuple[int, ...]) -> None:
    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for n, window in enumerate(windows):
            yield one(str(n), window=window)

    executions = Executions()
    with pytest.raises(InvalidArgumentError, match="window: must be positive"):
        await ids(pipeline(executions.execute).answers(messages()))
    assert executions.running == 0


async def test_who_stops_listening_cancels_what_is_under_way() -> None:
    caller, executions = Caller(4, 10), Executions()
    answers = pipeline(executions.execute).answers(caller.messages())
    listening = asyncio.create_task(anext(answers))

    async def full() -> bool:
        return executions.running == 4

    await until(full, "the window to be full")
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert executions.running == 0


async def test_a_defect_is_an_answer_and_not_the_end() -> None:
    async def execute(request: ExecutionRequest) -> Ended:
        if request.function.function == "cancelled":
            raise asyncio.CancelledError  # of somebody else's making
        raise RuntimeError("secret")

    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for id_ in ("broken", "cancelled", "unreadable"):
            yield one(id_, function=id_)

    responses = [each async for each in pipeline(execute).answers(messages())]
    answers = [answer for each in responses for answer in each.answers]
    assert {each.id for each in answers} == {"broken", "cancelled", "unreadable"}
    assert {each.error.code for each in answers} == {INTERNAL}
    assert not any("secret" in str(each) for each in answers)
