from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from skybridge.faas.v1.execution_service_pb2 import AttachExecutionResponse
from skybridge_client import AsyncClient, Client, Signal, UnavailableError
from skybridge_client.errors import AbortedError
from skybridge_client.messages import ExecutionEvent, InputAck
from skybridge_client.stdin import CHUNK_BYTES, KEPT_BYTES, Stdin
from tests.client.conftest import QUICK, Call, each
from tests.client.events import NAME, output, result
from tests.client.scripted import CUT, Abort, Scripted, Visit, hang
from tests.support.waiting import PATIENCE


def ack(committed: int, sequence: int = 0, *, closed: bool = False) -> ExecutionEvent:
    taken = InputAck(committed_bytes=committed, closed=closed)
    return ExecutionEvent(execution=NAME, sequence=sequence, input_ack=taken)


def answers(*events: ExecutionEvent) -> list[AttachExecutionResponse]:
    return [AttachExecutionResponse(event=event) for event in events]


class Container:
    """The other end, as the API describes it: takes by offset, skips what it has."""

    def __init__(self) -> None:
        self.stdin = b""
        self.closed = False

    def take(self, message: Any) -> InputAck:
        chunk = message.input
        assert chunk.offset <= len(self.stdin), "a hole in stdin"
        assert len(chunk.data) <= CHUNK_BYTES
        self.stdin += chunk.data[len(self.stdin) - chunk.offset :]
        self.closed = self.closed or chunk.end_of_input
        return InputAck(committed_bytes=len(self.stdin), closed=self.closed)


@given(
    st.lists(st.binary(max_size=300_000), max_size=6),
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=8),
)
def test_whatever_is_cut_stdin_arrives_once_and_whole(
    written: list[bytes], cuts: list[tuple[int, bool]]
) -> None:
    stdin, container = Stdin(), Container()
    wire: list[Message | None] = []
    stdin.connect(wire.append)
    for data in written:
        stdin.write(data)
    stdin.close()
    for arrived, answered in cuts:
        for message in wire[:arrived]:
            if message is not None:
                taken = container.take(message)
                if answered:
                    stdin.taken(taken)
        wire = []
        stdin.connect(wire.append)
    assert wire.pop() is None
    for message in wire:
        stdin.taken(container.take(message))
    assert container.stdin == b"".join(written)
    assert container.closed
    again: list[Message | None] = []
    stdin.connect(again.append)
    assert again == [None]


def test_a_lost_connection_ends_for_its_writer() -> None:
    stdin = Stdin()
    first: list[Message | None] = []
    second: list[Message | None] = []
    stdin.connect(first.append)
    stdin.write(b"a")
    stdin.connect(second.append)
    stdin.disconnect()
    stdin.write(b"b")
    assert first[-1] is None
    assert second[-1] is None
    assert len(first) == len(second) == 2


def echo(container: Container, limit: int | None = None) -> Any:
    """A step that acknowledges input as it comes, until stdin is closed or `limit` messages."""

    def step(visit: Visit) -> Iterator[Message]:
        for number, message in enumerate(visit.request):
            if message.HasField("input"):
                taken = container.take(message)
                yield from answers(ack(taken.committed_bytes, closed=taken.closed))
            if container.closed or number == limit:
                return

    return step


def read_first(visit: Visit) -> Iterator[Message]:
    next(visit.request)
    yield from ()


def test_input_goes_in_and_events_come_out(call: Call, server: Scripted) -> None:
    container = Container()
    server.on("AttachExecution", *answers(output(1)), echo(container), *answers(result(2)))
    source = [b"one ", Signal(name="SIGINT"), b"two"]
    events = call("attach", "cat", source, labels={"a": "b"}, run_timeout=3)
    assert [event.sequence for event in events] == [1, 2]
    assert container.stdin == b"one two"
    first, *rest = server.asked("AttachExecution")
    assert first.start.function == "cat"
    assert first.start.request_id
    assert dict(first.start.options.labels) == {"a": "b"}
    assert first.start.options.timeout.seconds == 3
    assert [message.WhichOneof("message") for message in rest] == [
        "input",
        "signal",
        "input",
        "input",
    ]


def test_after_a_cut_input_and_output_go_on_where_they_were(call: Call, server: Scripted) -> None:
    container = Container()
    server.on("AttachExecution", *answers(output(1)), echo(container, limit=2), CUT)
    server.on("AttachExecution", Abort(grpc.StatusCode.ABORTED, reason="STDIN_BUSY"))
    server.on("AttachExecution", echo(container), *answers(output(2), result(3)))
    events = call("attach", "cat", [b"a" * 100_000, b"b" * 100_000])
    assert [event.sequence for event in events] == [1, 2, 3]
    assert container.stdin == b"a" * 100_000 + b"b" * 100_000
    assert container.closed
    resumed = [ask.resume for ask in server.asked("AttachExecution") if ask.HasField("resume")]
    assert {(each.execution, each.after_sequence) for each in resumed} == {(NAME, 1)}


def test_a_stdin_that_is_taken_from_the_start_is_an_error(call: Call, server: Scripted) -> None:
    taken = Abort(grpc.StatusCode.ABORTED, reason="STDIN_BUSY")
    server.on("AttachExecution", read_first, taken)
    with pytest.raises(AbortedError):
        call("attach", "cat", [b"a"])


def test_input_that_fails_ends_the_call_with_its_error(call: Call, server: Scripted) -> None:
    def source() -> Iterator[bytes]:
        yield b"a"
        raise OSError("disk gone")

    server.on("AttachExecution", *answers(output(1)), hang)
    with pytest.raises(OSError, match="disk gone"):
        call("attach", "cat", source())


def test_input_waits_while_nobody_takes_it(call: Call, server: Scripted) -> None:
    read: list[int] = []
    container = Container()
    full = threading.Event()

    def source() -> Iterator[bytes]:
        for number in range(40):
            read.append(number)
            if len(read) * CHUNK_BYTES > KEPT_BYTES:
                full.set()
            yield b"x" * CHUNK_BYTES

    def stalled(visit: Visit) -> Iterator[Message]:
        assert full.wait(PATIENCE)
        ahead.append(len(read))
        yield from echo(container)(visit)

    ahead: list[int] = []
    server.on("AttachExecution", *answers(output(1)), stalled, *answers(result(2)))
    call("attach", "cat", source())
    assert ahead == [KEPT_BYTES // CHUNK_BYTES + 1]
    assert len(container.stdin) == 40 * CHUNK_BYTES


async def test_a_cancelled_task_ends_its_call(server: Scripted) -> None:
    started = asyncio.Event()

    async def follow(client: AsyncClient) -> None:
        async for _ in client.attach("cat", each([b"a"])):
            started.set()

    server.on("AttachExecution", *answers(output(1)), hang)
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(follow(client))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.over.wait, 10)


def test_an_end_of_the_execution_ends_the_reading_of_input(call: Call, server: Scripted) -> None:
    stopped = threading.Event()

    def source() -> Iterator[bytes]:
        try:
            while True:
                yield b"y\n" * 1000
        finally:
            stopped.set()

    server.on("AttachExecution", *answers(output(1), result(2)))
    assert len(call("attach", "head", source())) == 2
    assert stopped.wait(PATIENCE)


def test_a_caller_that_leaves_ends_the_call(server: Scripted) -> None:
    server.on("AttachExecution", *answers(output(1)), hang)
    with Client(server.address, patience=QUICK) as client:
        events = client.attach("cat", iter([b"a"]))
        assert next(iter(events)).sequence == 1
        del events
        assert server.over.wait(PATIENCE)


def test_attach_gives_up_like_every_stream(call: Call, server: Scripted) -> None:
    for _ in range(3):
        server.on("AttachExecution", read_first, CUT)
    with pytest.raises(UnavailableError):
        call("attach", "cat", [b"a"])
    first, second, third = server.asked("AttachExecution")
    assert first.HasField("start")
    assert first == second == third
