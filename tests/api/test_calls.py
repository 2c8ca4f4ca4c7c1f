"""What stands around every call, of each of the four kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from structlog.contextvars import get_contextvars

from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge.faas.v1 import system_service_pb2_grpc
from skybridge_server.api.access import open_to_all
from skybridge_server.api.calls import Methods
from skybridge_server.api.listen import bind, bound
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.wire.server import WireServer
from skybridge_server.errors import AbortedError, NotFoundError
from tests.api.tiny import LOOPBACK, Tiny
from tests.support.waiting import PATIENCE


def calls(registry: CollectorRegistry, method: str, status: str) -> float | None:
    return registry.get_sample_value(
        "grpc_server_call_duration_seconds_count", {"grpc_method": method, "grpc_status": status}
    )


async def request_id_seen(tiny: Tiny, sent: str | None) -> tuple[str, str]:
    """Return the request id in the handler's log context, and that in the trailer."""
    bound: list[str] = []

    async def info() -> pb.GetSystemInfoResponse:
        bound.append(get_contextvars()["request_id"])
        raise AbortedError("no")

    tiny.script.info = info
    metadata = [("x-request-id", sent)] if sent else []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest(), metadata=metadata)
    trailers = caught.value.trailing_metadata()
    assert trailers is not None
    return bound[0], str(trailers["x-request-id"])


async def test_request_ids_are_taken_or_made(tiny: Tiny) -> None:
    assert await request_id_seen(tiny, "abc/1.2:3") == ("abc/1.2:3", "abc/1.2:3")
    for sent in (None, "two words", "x" * 129):
        bound, returned = await request_id_seen(tiny, sent)
        assert bound == returned != sent
        assert len(bound) == 16


async def test_unary_calls_are_counted(tiny: Tiny) -> None:
    method = "skybridge.faas.v1.SystemService/GetSystemInfo"
    answer = await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    assert answer.version == "tiny"
    assert calls(tiny.registry, method, "OK") == 1

    async def info() -> pb.GetSystemInfoResponse:
        raise NotFoundError("thing", "x")

    tiny.script.info = info
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    assert calls(tiny.registry, method, "NOT_FOUND") == 2


async def test_methods_that_do_not_exist_are_unimplemented(tiny: Tiny) -> None:
    call: Any = tiny.channel.unary_unary("/skybridge.faas.v1.SystemService/Nothing")
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_malformed_messages_are_the_callers_error(tiny: Tiny) -> None:
    for kind, method in (
        ("unary_unary", "skybridge.faas.v1.SystemService/GetSystemInfo"),
        ("unary_stream", "skybridge.faas.v1.SystemService/PullImage"),
        ("stream_stream", "skybridge.faas.v1.ExecutionService/AttachExecution"),
    ):
        call = getattr(tiny.channel, kind)(f"/{method}")
        malformed = b"\xff\xff\xff"
        answer = call(iter([malformed]) if kind == "stream_stream" else malformed)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (answer if kind == "unary_unary" else answer.read())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "must be a protobuf message" in (caught.value.details() or "")
        assert calls(tiny.registry, method, "INVALID_ARGUMENT") == 1
    assert (await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())).version == "tiny"


async def test_streams_deliver_what_came_before_an_error(tiny: Tiny) -> None:
    async def pull() -> AsyncGenerator[pb.PullImageResponse, None]:
        yield pb.PullImageResponse(image=pb.PulledImage(image_id="one"))
        raise AbortedError("later")

    tiny.script.pull = pull
    call = tiny.system.PullImage(pb.PullImageRequest())
    assert (await anext(aiter(call))).image.image_id == "one"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(call))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "later")
    assert calls(tiny.registry, "skybridge.faas.v1.SystemService/PullImage", "ABORTED") == 1


async def test_both_directions_stream(tiny: Tiny) -> None:
    call = tiny.executions.AttachExecution()
    for _ in range(3):
        await call.write(executions_pb.AttachExecutionRequest())
        assert await call.read() == executions_pb.AttachExecutionResponse()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    method = "skybridge.faas.v1.ExecutionService/AttachExecution"
    assert calls(tiny.registry, method, "OK") == 1


async def test_requests_that_stream_to_one_answer() -> None:
    """No RPC of ours is of this kind yet."""

    async def count(requests: AsyncIterator[bytes], _: Any) -> bytes:
        received = [request async for request in requests]
        if not received:
            raise AbortedError("nothing came")
        return b"".join(received)

    registry = CollectorRegistry()
    methods = Methods(CallMetrics(registry), open_to_all)
    handler: Any = grpc.stream_unary_rpc_method_handler(count, bytes, bytes)
    methods.add_registered_method_handlers("t.T", {"C": handler})
    server = WireServer(methods.find)
    sockets = bind("listen", LOOPBACK)
    await server.listen(sockets, None)
    port = bound(LOOPBACK, sockets).port
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.stream_unary("/t.T/C")
            assert await call(iter([b"a", b"b"])) == b"ab"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(iter([]))
            assert caught.value.code() is grpc.StatusCode.ABORTED
    finally:
        await server.stop(0.0)
    assert calls(registry, "t.T/C", "OK") == 1


class Stage:
    """A handler that waits, and tells when it was entered, cancelled and cleaned up."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cleaned = asyncio.Event()

    async def wait(self) -> pb.GetSystemInfoResponse:
        try:
            self.entered.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what cleans up may wait
            self.cleaned.set()
        raise AssertionError("unreachable")

    async def stream(self, *_: Any) -> AsyncGenerator[Any, None]:
        yield pb.PullImageResponse()
        await self.wait()

    async def flood(self) -> AsyncGenerator[pb.PullImageResponse, None]:
        """Yields more than fits between server and caller, and so waits at a yield."""
        layer = pb.PullImageResponse(image=pb.PulledImage(image_id="x" * 100_000))
        try:
            self.entered.set()
            while True:
                yield layer
        finally:
            await asyncio.sleep(0)
            self.cleaned.set()


async def test_a_cancelled_unary_call_ends_its_handler(tiny: Tiny) -> None:
    stage = Stage()
    tiny.script.info = stage.wait
    call = tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    await asyncio.wait_for(stage.entered.wait(), PATIENCE)
    call.cancel()
    await asyncio.wait_for(stage.cleaned.wait(), PATIENCE)


async def test_a_deadline_ends_the_handler(tiny: Tiny) -> None:
    stage = Stage()
    tiny.script.info = stage.wait
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(stage.cleaned.wait(), PATIENCE)


@pytest.mark.parametrize("kind", ["stream", "flood"])
async def test_a_cancelled_stream_ends_its_generator(tiny: Tiny, kind: str) -> None:
    stage = Stage()
    tiny.script.pull = getattr(stage, kind)
    call = tiny.system.PullImage(pb.PullImageRequest())
    await call.read()
    await asyncio.wait_for(stage.entered.wait(), PATIENCE)
    call.cancel()
    await asyncio.wait_for(stage.cleaned.wait(), PATIENCE)


@pytest.mark.parametrize("kind", ["stream", "flood"])
async def test_a_lost_connection_ends_the_generator(tiny: Tiny, kind: str) -> None:
    stage = Stage()
    tiny.script.pull = getattr(stage, kind)
    async with grpc.aio.insecure_channel(str(tiny.address)) as channel:
        call = system_service_pb2_grpc.SystemServiceStub(channel).PullImage(pb.PullImageRequest())
        await call.read()
        await asyncio.wait_for(stage.entered.wait(), PATIENCE)
    await asyncio.wait_for(stage.cleaned.wait(), PATIENCE)


async def test_a_cancelled_bidirectional_call_ends_its_generator(tiny: Tiny) -> None:
    stage = Stage()

    async def attach(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for _ in requests:
            yield executions_pb.AttachExecutionResponse()
            await stage.wait()

    tiny.script.attach = attach
    call = tiny.executions.AttachExecution()
    await call.write(executions_pb.AttachExecutionRequest())
    await call.read()
    await asyncio.wait_for(stage.entered.wait(), PATIENCE)
    call.cancel()
    await asyncio.wait_for(stage.cleaned.wait(), PATIENCE)


async def test_a_task_cancelled_by_somebody_else_still_answers(tiny: Tiny) -> None:
    async def info() -> pb.GetSystemInfoResponse:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task
        raise AssertionError("unreachable")

    tiny.script.info = info
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
