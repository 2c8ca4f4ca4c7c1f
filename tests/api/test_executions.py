"""ExecutionService on the wire."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.models.journal import OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.requests import ExecutionRequest
from tests.api.served import Served, all_of, refusal, serve
from tests.fakes.runtime import FakeProcess, echo, says, sleep
from tests.support.waiting import PATIENCE

IMPATIENT = {"image": "busybox", "timeouts": {"shutdown_grace": {}}}
HELLO = "namespaces/default/functions/hello"


@pytest.fixture
async def served() -> AsyncGenerator[Served, None]:
    """A server with `hello` deployed."""
    async with serve() as running:
        await running.create(spec=IMPATIENT)
        await running.deploy()
        yield running


def kinds(events: list[Any]) -> list[str]:
    return [str(message.event.WhichOneof("event")) for message in events]


async def prompt(process: FakeProcess) -> int:
    """Say something, then run until SIGTERM."""
    await process.write(b"ready")
    await process.signalled("SIGTERM")
    return 0


async def next_output(stream: AsyncIterator[Any]) -> bytes:
    async with asyncio.timeout(PATIENCE):
        async for message in stream:
            if message.event.WhichOneof("event") == "output":
                return bytes(message.event.output.data)
    raise AssertionError("the stream ended without output")


async def name_of(stream: Any) -> str:
    """Return the name of the execution, as the initial metadata tell it."""
    async with asyncio.timeout(PATIENCE):
        metadata = dict(await stream.initial_metadata())
    return str(metadata["skybridge-execution"])


async def test_execute(served: Served) -> None:
    served.runtime.containers.program = says(b"out", b"err", code=3)
    request = pb.ExecuteFunctionRequest(
        function="hello",
        input=b"in",
        options=pb.ExecutionOptions(labels={"a": "b"}, timeout=Duration(seconds=5)),
    )
    answer = await served.executions.ExecuteFunction(request, timeout=PATIENCE)
    execution = answer.execution
    assert execution.state == execution_pb2.EXECUTION_STATE_FAILED
    assert execution.failure.reason == execution_pb2.FAILURE_REASON_EXIT_CODE
    assert (execution.exit_code, execution.output, execution.log_tail) == (3, b"out", b"err")
    assert execution.function == HELLO
    assert execution.revision == f"{HELLO}/revisions/1"
    assert dict(execution.labels) == {"a": "b"}
    assert uuid.UUID(execution.name.rpartition("/")[2]).version == 7


async def test_input_and_options_reach_the_function(served: Served) -> None:
    served.runtime.containers.program = echo
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    request = pb.ExecuteFunctionRequest(
        function=HELLO,
        input=b"\0\xff" * 100_000,
        options=pb.ExecutionOptions(traceparent=traceparent),
    )
    answer = await served.executions.ExecuteFunction(request, timeout=PATIENCE)
    assert answer.execution.output == request.input
    assert served.runtime.containers.created[-1].env["TRACEPARENT"] == traceparent


async def test_the_deadline_of_the_call_limits_the_execution(served: Served) -> None:
    served.runtime.containers.program = sleep
    request = pb.ExecuteFunctionRequest(function="hello")
    try:
        await served.executions.ExecuteFunction(request, timeout=0.3)
    except grpc.aio.AioRpcError as error:  # unless the answer is just in time
        assert error.code() is StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - it need not come
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest())
    ended = await served.ended(page.executions[0].name)
    assert ended.state == execution_pb2.EXECUTION_STATE_TIMED_OUT
    assert ended.failure.reason == execution_pb2.FAILURE_REASON_DEADLINE


async def test_a_caller_that_goes_away_cancels_what_it_executes(served: Served) -> None:
    running = asyncio.Event()

    async def program(process: FakeProcess) -> int:
        running.set()
        return await prompt(process)

    served.runtime.containers.program = program
    call = served.executions.ExecuteFunction(pb.ExecuteFunctionRequest(function="hello"))
    async with asyncio.timeout(PATIENCE):
        await running.wait()
    call.cancel()
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest())
    ended = await served.ended(page.executions[0].name)
    assert ended.state == execution_pb2.EXECUTION_STATE_CANCELLED
    assert ended.failure.reason == execution_pb2.FAILURE_REASON_DISCONNECTED


async def test_start_returns_at_once_and_repeats_return_the_first(served: Served) -> None:
    served.runtime.containers.program = prompt
    request = pb.StartExecutionRequest(function="hello", request_id=str(uuid.uuid4()))
    first = (await served.executions.StartExecution(request)).execution
    assert first.state < execution_pb2.EXECUTION_STATE_SUCCEEDED
    assert not first.HasField("end_time")
    again = (await served.executions.StartExecution(request)).execution
    assert again.name == first.name
    request.input = b"other"
    refused = await refusal(lambda: served.executions.StartExecution(request))
    assert refused.code is StatusCode.ALREADY_EXISTS


async def test_a_stream_has_every_event_in_order_and_ends_with_the_result(served: Served) -> None:
    served.runtime.containers.program = says(b"out", b"err")
    stream = served.executions.StreamExecution(
        pb.StreamExecutionRequest(function="hello"), timeout=PATIENCE
    )
    name = await name_of(stream)
    events = [m for m in await all_of(stream) if m.event.WhichOneof("event") != "heartbeat"]
    assert [message.event.sequence for message in events] == list(range(1, len(events) + 1))
    assert {message.event.execution for message in events} == {name}
    assert kinds(events)[0] == "state_change"
    assert kinds(events)[-1] == "result"
    outputs = [m.event.output for m in events if m.event.WhichOneof("event") == "output"]
    assert {(each.stream, each.offset, each.data) for each in outputs} == {
        (execution_pb2.OUTPUT_STREAM_STDOUT, 0, b"out"),
        (execution_pb2.OUTPUT_STREAM_STDERR, 0, b"err"),
    }
    result = events[-1].event.result.execution
    assert (result.name, result.state) == (name, execution_pb2.EXECUTION_STATE_SUCCEEDED)
    assert (result.stdout_bytes, result.output) == (3, b"")


async def test_the_first_event_does_not_wait_for_the_container(served: Served) -> None:
    release = served.runtime.gate.hold("create")
    stream = served.executions.StreamExecution(pb.StreamExecutionRequest(function="hello"))
    async with asyncio.timeout(PATIENCE):
        first = await anext(aiter(stream))
    assert first.event.state_change.state == execution_pb2.EXECUTION_STATE_QUEUED
    assert first.event.execution == await name_of(stream)
    release.set()


async def test_silence_is_broken_by_heartbeats(served: Served) -> None:
    served.runtime.containers.program = prompt
    stream = served.executions.StreamExecution(pb.StreamExecutionRequest(function="hello"))
    last = 0
    async with asyncio.timeout(PATIENCE):
        async for message in stream:
            if message.event.WhichOneof("event") == "heartbeat":
                break
            last = message.event.sequence
    assert message.event.sequence == last
    assert message.event.execution == await name_of(stream)
    stream.cancel()


@pytest.mark.parametrize(
    ("mode", "state"),
    [
        (pb.ON_DISCONNECT_UNSPECIFIED, execution_pb2.EXECUTION_STATE_CANCELLED),
        (pb.ON_DISCONNECT_CANCEL, execution_pb2.EXECUTION_STATE_CANCELLED),
        (pb.ON_DISCONNECT_CONTINUE, execution_pb2.EXECUTION_STATE_SUCCEEDED),
    ],
)
async def test_a_caller_that_leaves_a_stream(
    served: Served, mode: pb.OnDisconnect.ValueType, state: execution_pb2.ExecutionState.ValueType
) -> None:
    proceed = asyncio.Event()

    async def program(process: FakeProcess) -> int:
        await process.write(b"ready")
        await proceed.wait()
        return 0

    served.runtime.containers.program = program
    request = pb.StreamExecutionRequest(
        function="hello", on_disconnect=mode, disconnect_grace=Duration()
    )
    stream = served.executions.StreamExecution(request)
    assert await next_output(aiter(stream)) == b"ready"
    name = await name_of(stream)
    stream.cancel()
    active = served.services.registry.get(ExecutionName("default", name.rpartition("/")[2]))
    assert active is not None
    if mode != pb.ON_DISCONNECT_CONTINUE:
        async with asyncio.timeout(PATIENCE):
            await active.stopping.wait()
    proceed.set()
    assert (await served.ended(name)).state == state


async def test_a_caller_that_leaves_before_the_first_event(served: Served) -> None:
    served.runtime.containers.program = prompt
    wanted = ExecutionRequest(FunctionName("default", "hello"))
    items = served.services.executions.stream(
        wanted, cancel_after=timedelta(0), heartbeat=timedelta(seconds=1)
    )
    name = await anext(items)
    assert isinstance(name, ExecutionName)
    await items.aclose()
    ended = await served.ended(str(name))
    assert ended.failure.reason == execution_pb2.FAILURE_REASON_DISCONNECTED


async def test_a_watch_goes_on_where_the_caller_was(served: Served) -> None:
    served.runtime.containers.program = says(b"out")
    name = (await served.start()).name
    await served.ended(name)
    whole = await all_of(
        served.executions.WatchExecution(pb.WatchExecutionRequest(name=name), timeout=PATIENCE)
    )
    assert [message.event.sequence for message in whole] == list(range(1, len(whole) + 1))
    rest = await all_of(
        served.executions.WatchExecution(
            pb.WatchExecutionRequest(name=name, after_sequence=2), timeout=PATIENCE
        )
    )
    assert rest == whole[2:]
    beyond = pb.WatchExecutionRequest(name=name, after_sequence=10**6)
    refused = await refusal(lambda: all_of(served.executions.WatchExecution(beyond)))
    assert refused.code is StatusCode.OUT_OF_RANGE


async def test_leaving_a_watch_does_not_touch_the_execution(served: Served) -> None:
    served.runtime.containers.program = prompt
    name = (await served.start()).name
    watch = served.executions.WatchExecution(pb.WatchExecutionRequest(name=name))
    assert await next_output(aiter(watch)) == b"ready"
    watch.cancel()
    assert await served.state(name) == execution_pb2.EXECUTION_STATE_RUNNING


async def test_views(served: Served) -> None:
    served.runtime.containers.program = says(b"out", b"err")
    name = (await served.start()).name
    ended = await served.ended(name)
    assert (ended.output, ended.log_tail, ended.output_truncated) == (b"out", b"err", False)
    for view, output in ((0, b"out"), (1, b""), (2, b"out")):
        request = pb.GetExecutionRequest(
            name=name.rpartition("/")[2], view=pb.ExecutionView.ValueType(view)
        )
        assert (await served.executions.GetExecution(request)).execution.output == output


async def test_lists(served: Served) -> None:
    served.runtime.containers.program = says(b"out")
    await served.create("other")
    await served.deploy("other")
    started = [(await served.start(name)).name for name in ("hello", "other", "hello")]
    for name in started:
        await served.ended(name)

    async def listed(**fields: Any) -> list[str]:
        page = await served.executions.ListExecutions(pb.ListExecutionsRequest(**fields))
        assert all(not execution.output for execution in page.executions)
        return [execution.name for execution in page.executions]

    assert await listed() == started[::-1]
    assert await listed(order_by="create_time") == started
    assert await listed(filter='function = "other"') == [started[1]]
    assert await listed(filter=f'function = "{HELLO}" AND state = SUCCEEDED') == [
        started[2],
        started[0],
    ]
    assert await listed(filter='create_time < "2020-01-01T00:00:00Z"') == []
    assert await listed(parent="namespaces/elsewhere") == []
    page = await served.executions.ListExecutions(pb.ListExecutionsRequest(page_size=2))
    token = page.next_page_token
    assert await listed(page_token=token) == [started[0]]
    refused = await refusal(lambda: listed(page_token=token, filter="state = FAILED"))
    assert refused.fields == ["page_token"]


async def test_a_wait_ends_with_its_time_or_the_deadline(served: Served) -> None:
    served.runtime.containers.program = prompt
    name = (await served.start()).name
    request = pb.WaitExecutionRequest(name=name, timeout=Duration())
    assert not (await served.executions.WaitExecution(request)).execution.HasField("end_time")
    request = pb.WaitExecutionRequest(name=name)
    answer = await served.executions.WaitExecution(request, timeout=2)
    assert not answer.execution.HasField("end_time")


async def test_cancel_and_delete(served: Served) -> None:
    served.runtime.containers.program = prompt
    name = (await served.start()).name
    watch = served.executions.WatchExecution(pb.WatchExecutionRequest(name=name))
    await next_output(aiter(watch))
    delete = pb.DeleteExecutionRequest(name=name)
    refused = await refusal(lambda: served.executions.DeleteExecution(delete))
    assert refused.code is StatusCode.FAILED_PRECONDITION
    cancel = pb.CancelExecutionRequest(name=name)
    answer = await served.executions.CancelExecution(cancel)
    assert answer.execution.state == execution_pb2.EXECUTION_STATE_CANCELLING
    ended = await served.ended(name)
    assert ended.state == execution_pb2.EXECUTION_STATE_CANCELLED
    again = (await served.executions.CancelExecution(cancel)).execution
    assert again.output == b"ready"
    await served.executions.DeleteExecution(delete)
    refused = await refusal(lambda: served.executions.DeleteExecution(delete))
    assert refused.code is StatusCode.NOT_FOUND


async def test_what_is_not_deployed_cannot_be_executed(served: Served) -> None:
    await served.create("idle")
    refused = await refusal(lambda: served.start("idle"))
    assert (refused.code, refused.reason) == (
        StatusCode.FAILED_PRECONDITION,
        "FUNCTION_NOT_DEPLOYED",
    )
    stream = pb.StreamExecutionRequest(function="unknown")
    refused = await refusal(lambda: all_of(served.executions.StreamExecution(stream)))
    assert refused.code is StatusCode.NOT_FOUND


async def test_input_that_the_contract_cannot_take(served: Served) -> None:
    await served.create("env", spec={"image": "busybox", "contract": {"input": 2}})
    await served.deploy("env")
    for input_ in (b"\xff", b"a\0b", b"x" * (96 * 1024 + 1)):
        request = pb.ExecuteFunctionRequest(function="env", input=input_)
        refused = await refusal(lambda r=request: served.executions.ExecuteFunction(r))  # type: ignore[misc] # the loop's value
        assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, ["input"])


async def logs(served: Served, **fields: Any) -> list[tuple[str, bytes]]:
    stream = served.executions.ReadLogs(pb.ReadLogsRequest(**fields), timeout=PATIENCE)
    return [(entry.execution, entry.output.data) for entry in await all_of(stream)]


async def test_logs(served: Served) -> None:
    served.runtime.containers.program = says(b"one\ntwo\n", b"err\n")
    names = [(await served.start()).name for _ in range(2)]
    for name in names:
        await served.ended(name)
    first, second = names
    assert set(await logs(served, name=first)) == {(first, b"one\ntwo\n"), (first, b"err\n")}
    stderr = OutputStream.STDERR
    assert await logs(served, name=first, stream=stderr) == [(first, b"err\n")]
    assert await logs(served, name="hello", stream=stderr) == [
        (first, b"err\n"),
        (second, b"err\n"),
    ]
    tail = await logs(served, name=first, stream=OutputStream.STDOUT, tail_lines=1)
    assert tail == [(first, b"two\n")]
    assert await logs(served, name=first, since=Timestamp(seconds=2**31)) == []
    unknown = f"namespaces/default/executions/{uuid.uuid4()}"
    for name in (unknown, "unknown"):
        refused = await refusal(lambda n=name: logs(served, name=n))  # type: ignore[misc] # the loop's value
        assert refused.code is StatusCode.NOT_FOUND


async def test_logs_can_be_followed(served: Served) -> None:
    proceed = asyncio.Event()

    async def program(process: FakeProcess) -> int:
        await process.write(b"one")
        await proceed.wait()
        await process.write(b"two")
        return 0

    served.runtime.containers.program = program
    name = (await served.start()).name
    stream = aiter(served.executions.ReadLogs(pb.ReadLogsRequest(name=name, follow=True)))
    async with asyncio.timeout(PATIENCE):
        assert (await anext(stream)).output.data == b"one"
        proceed.set()
        assert [entry.output.data async for entry in stream] == [b"two"]
