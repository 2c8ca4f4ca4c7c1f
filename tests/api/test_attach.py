"""AttachExecution on the wire: stdin and signals go in while events come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from grpc import StatusCode

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.models.names import ExecutionName
from tests.api.served import Served, refusal, serve
from tests.fakes.runtime import FakeProcess, echo, sleep
from tests.support.waiting import PATIENCE

START = pb.AttachExecutionRequest(start=pb.AttachStart(function="hello"))


@pytest.fixture
async def served() -> AsyncGenerator[Served, None]:
    """A server with `hello`, which copies stdin to stdout, deployed."""
    async with serve() as running:
        running.runtime.containers.program = echo
        await running.create(spec={"image": "busybox", "timeouts": {"shutdown_grace": {}}})
        await running.deploy()
        yield running


def chunk(offset: int, data: bytes, *, end: bool = False) -> pb.AttachExecutionRequest:
    return pb.AttachExecutionRequest(
        input=pb.InputChunk(offset=offset, data=data, end_of_input=end)
    )


def signal(name: str) -> pb.AttachExecutionRequest:
    return pb.AttachExecutionRequest(signal=pb.Signal(name=name))


def resume(execution: str, after: int = 0) -> pb.AttachExecutionRequest:
    return pb.AttachExecutionRequest(
        resume=pb.AttachResume(execution=execution, after_sequence=after)
    )


class Attached:
    """A caller of AttachExecution."""

    def __init__(self, served: Served) -> None:
        self._call: Any = served.executions.AttachExecution(timeout=PATIENCE)
        self.events: list[execution_pb2.ExecutionEvent] = []

    async def send(self, *messages: pb.AttachExecutionRequest) -> None:
        for message in messages:
            await self._call.write(message)

    async def done_sending(self) -> None:
        await self._call.done_writing()

    async def until(self, kind: str) -> Any:
        """Read up to the first event of a kind."""
        async for message in self._call:
            self.events.append(message.event)
            if message.event.WhichOneof("event") == kind:
                return getattr(message.event, kind)
        raise AssertionError(f"the stream ended without {kind}")

    async def rest(self) -> None:
        async for message in self._call:
            self.events.append(message.event)

    async def name(self) -> str:
        return str(dict(await self._call.initial_metadata())["skybridge-execution"])

    async def cut(self, served: Served) -> None:
        """Break off the call, and wait until the server knows."""
        active = served.services.registry.get(
            ExecutionName("default", (await self.name()).rpartition("/")[2])
        )
        assert active is not None
        self._call.cancel()
        async with asyncio.timeout(PATIENCE):
            while active.stdin._writer is not None:  # noqa: ASYNC110 - nobody else tells
                await asyncio.sleep(0.005)

    @property
    def output(self) -> bytes:
        return b"".join(event.output.data for event in self.events)


async def test_stdin_goes_in_while_output_comes_back(served: Served) -> None:
    caller = Attached(served)
    await caller.send(START, chunk(0, b"one"))
    assert (await caller.until("output")).data == b"one"
    await caller.send(chunk(3, b"two", end=True))
    await caller.rest()
    assert caller.output == b"onetwo"
    assert caller.events[-1].result.execution.state == execution_pb2.EXECUTION_STATE_SUCCEEDED
    assert {event.execution for event in caller.events} == {await caller.name()}
    acks = [event.input_ack for event in caller.events if event.HasField("input_ack")]
    assert [(ack.committed_bytes, ack.closed) for ack in acks][:1] == [(3, False)]


async def test_the_end_of_the_requests_is_the_end_of_stdin(served: Served) -> None:
    caller = Attached(served)
    await caller.send(START, chunk(0, b"all"))
    await caller.done_sending()
    await caller.rest()
    assert caller.output == b"all"
    assert caller.events[-1].WhichOneof("event") == "result"


async def test_no_stdin_at_all(served: Served) -> None:
    caller = Attached(served)
    await caller.send(START)
    await caller.done_sending()
    await caller.rest()
    assert caller.events[-1].result.execution.state == execution_pb2.EXECUTION_STATE_SUCCEEDED


async def test_signals(served: Served) -> None:
    async def program(process: FakeProcess) -> int:
        await process.write(b"ready")
        await process.signalled("SIGUSR1")
        return 7

    served.runtime.containers.program = program
    caller = Attached(served)
    await caller.send(START)
    await caller.until("output")
    await caller.send(signal("SIGUSR1"))
    await caller.rest()
    assert caller.events[-1].result.execution.exit_code == 7


@pytest.mark.parametrize("_time", range(5))
async def test_a_cut_is_no_end_of_stdin(served: Served, _time: int) -> None:
    caller = Attached(served)
    await caller.send(START, chunk(0, b"one"))
    await caller.until("output")
    name = await caller.name()
    await caller.cut(served)
    again = Attached(served)
    await again.send(resume(name, caller.events[-1].sequence), chunk(0, b"onetwo"))
    await again.until("output")
    await again.send(chunk(6, b"", end=True))
    await again.rest()
    assert again.output == b"two"
    assert again.events[-1].result.execution.stdout_bytes == 6


async def test_a_resumed_caller_may_just_end_stdin(served: Served) -> None:
    caller = Attached(served)
    await caller.send(START, chunk(0, b"one"))
    await caller.until("output")
    name = await caller.name()
    await caller.cut(served)
    again = Attached(served)
    await again.send(resume(name))
    await again.done_sending()
    await again.rest()
    assert again.output == b"one"


@pytest.mark.parametrize(
    ("messages", "code", "fields"),
    [
        ([], StatusCode.INVALID_ARGUMENT, ["message"]),
        ([pb.AttachExecutionRequest()], StatusCode.INVALID_ARGUMENT, ["message"]),
        ([chunk(0, b"x")], StatusCode.INVALID_ARGUMENT, ["input"]),
        ([signal("SIGINT")], StatusCode.INVALID_ARGUMENT, ["signal"]),
        ([START, START], StatusCode.INVALID_ARGUMENT, ["start"]),
        ([START, resume("x")], StatusCode.INVALID_ARGUMENT, ["resume"]),
        ([START, pb.AttachExecutionRequest()], StatusCode.INVALID_ARGUMENT, ["message"]),
        ([START, chunk(0, b"x" * 65_537)], StatusCode.INVALID_ARGUMENT, ["input.data"]),
        ([START, chunk(-1, b"x")], StatusCode.INVALID_ARGUMENT, ["input.offset"]),
        ([START, chunk(5, b"x")], StatusCode.OUT_OF_RANGE, []),
        ([START, signal("SIGSTOP")], StatusCode.INVALID_ARGUMENT, ["signal.name"]),
        ([START, signal("")], StatusCode.INVALID_ARGUMENT, ["signal.name"]),
        ([START, signal("9")], StatusCode.INVALID_ARGUMENT, ["signal.name"]),
        (
            [resume("hello", -1)],
            StatusCode.INVALID_ARGUMENT,
            ["resume.execution", "resume.after_sequence"],
        ),
        (
            [resume("01890a5d-ac96-774b-bcce-b302099a8057")],
            StatusCode.NOT_FOUND,
            [],
        ),
        (
            [
                pb.AttachExecutionRequest(
                    start=pb.AttachStart(
                        function="../x",
                        request_id="x",
                        options=pb.ExecutionOptions(traceparent="x", labels={"A": ""}),
                    )
                )
            ],
            StatusCode.INVALID_ARGUMENT,
            [
                "start.function",
                "start.request_id",
                "start.options.labels[A]",
                "start.options.traceparent",
            ],
        ),
    ],
)
async def test_what_callers_may_not_send(
    served: Served, messages: list[pb.AttachExecutionRequest], code: StatusCode, fields: list[str]
) -> None:
    served.runtime.containers.program = sleep

    async def call() -> None:
        caller = Attached(served)
        await caller.send(*messages)
        await caller.done_sending()
        await caller.rest()

    refused = await refusal(call)
    assert (refused.code, refused.fields) == (code, fields)


async def test_an_execution_without_callers_input_cannot_be_attached_to(served: Served) -> None:
    served.runtime.containers.program = sleep
    name = (await served.start()).name

    async def call() -> None:
        caller = Attached(served)
        await caller.send(resume(name))
        await caller.rest()

    refused = await refusal(call)
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "NOT_INTERACTIVE")


async def test_one_caller_writes_at_a_time(served: Served) -> None:
    first = Attached(served)
    await first.send(START, chunk(0, b"one"))
    await first.until("output")
    name = await first.name()

    async def call() -> None:
        second = Attached(served)
        await second.send(resume(name), chunk(3, b"two"))
        await second.rest()

    assert (await refusal(call)).code is StatusCode.ABORTED
    await first.send(chunk(3, b"!", end=True))
    async with asyncio.timeout(PATIENCE):
        await first.rest()
    assert first.output == b"one!"
