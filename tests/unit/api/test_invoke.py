"""The window of InvokeStream: how far the server reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from google.rpc.code_pb2 import INTERNAL, INVALID_ARGUMENT

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge.faas.v1.execution_pb2 import Execution
from skybridge_server.api.invoke import DEFAULT_WINDOW, MAX_WINDOW, Pipeline
from tests.support.waiting import PATIENCE, until


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
            yield pb.InvokeStreamRequest(id=str(n), window=0 if n else self._window)


class Executions:
    """Executions that end when they are let go."""

    def __init__(self) -> None:
        self.running = 0
        self.gate = asyncio.Event()

    async def execute(self, request: pb.ExecuteFunctionRequest) -> Execution:
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return Execution(name=request.function)


@pytest.mark.parametrize(
    ("asked", "window"), [(1, 1), (0, DEFAULT_WINDOW), (256, MAX_WINDOW), (1_000_000, MAX_WINDOW)]
)
async def test_no_more_is_read_than_the_window(asked: int, window: int) -> None:
    caller, executions = Caller(asked, MAX_WINDOW + 100), Executions()
    pipeline = Pipeline(executions.execute)

    async def full() -> bool:
        return executions.running == window

    async with asyncio.timeout(PATIENCE), aclosing(pipeline.answers(caller.messages())) as answers:
        first = asyncio.create_task(anext(answers))
        await until(full, "the window to be full")
        assert caller.read == window
        executions.gate.set()
        await first
        await asyncio.sleep(0)
        # What was not taken by the caller is still owed to him.
        assert caller.read == window
        seen = {(await first).id} | {answer.id async for answer in answers}
    assert len(seen) == caller.read == MAX_WINDOW + 100


async def test_a_window_that_is_no_window_is_refused() -> None:
    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for id_, window in (("a", -1), ("b", 0), ("c", 3)):
            yield pb.InvokeStreamRequest(id=id_, window=window)

    executions = Executions()
    executions.gate.set()
    answers = {each.id: each async for each in Pipeline(executions.execute).answers(messages())}
    codes = {id_: answer.error.code for id_, answer in answers.items()}
    assert codes == {"a": INVALID_ARGUMENT, "b": 0, "c": INVALID_ARGUMENT}


async def test_who_stops_listening_cancels_what_is_under_way() -> None:
    caller, executions = Caller(4, 10), Executions()
    answers = Pipeline(executions.execute).answers(caller.messages())
    listening = asyncio.create_task(anext(answers))

    async def full() -> bool:
        return executions.running == 4

    await until(full, "the window to be full")
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    assert executions.running == 0


async def test_a_defect_is_an_answer_and_not_the_end() -> None:
    async def execute(request: pb.ExecuteFunctionRequest) -> Execution:
        if request.function == "cancelled":
            raise asyncio.CancelledError  # of somebody else's making
        raise RuntimeError("secret")

    async def messages() -> AsyncGenerator[pb.InvokeStreamRequest, None]:
        for id_ in ("broken", "cancelled"):
            yield pb.InvokeStreamRequest(id=id_, execute=pb.ExecuteFunctionRequest(function=id_))

    answers = [each async for each in Pipeline(execute).answers(messages())]
    assert {each.id for each in answers} == {"broken", "cancelled"}
    assert {each.error.code for each in answers} == {INTERNAL}
    assert not any("secret" in str(each) for each in answers)
