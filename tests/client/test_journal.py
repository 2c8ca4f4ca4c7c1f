from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge.faas.v1.execution_service_pb2 import (
    StreamExecutionResponse,
    WatchExecutionResponse,
)
from skybridge_client import errors, executions
from skybridge_client.errors import SkybridgeError, UnavailableError
from skybridge_client.journal import Journal
from skybridge_client.messages import ExecutionEvent
from skybridge_client.patience import Patience
from tests.client.conftest import QUICK, Call
from tests.client.events import NAME, heartbeat, journal, output, result
from tests.client.scripted import CUT, Abort, Scripted, hang

Code = grpc.StatusCode


def stream_of(*events: ExecutionEvent) -> list[StreamExecutionResponse]:
    return [StreamExecutionResponse(event=event) for event in events]


def watch_of(*events: ExecutionEvent) -> list[WatchExecutionResponse]:
    return [WatchExecutionResponse(event=event) for event in events]


def sequences(events: list[ExecutionEvent]) -> list[int]:
    return [event.sequence for event in events]


# The machine alone


@st.composite
def connections(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, list[int]]]]:
    """The length of a journal, and connections: how far back each starts (a server may repeat),
    how many events it brings before it is cut, and where heartbeats come in between."""
    length = draw(st.integers(1, 30))
    each = st.tuples(st.integers(0, 3), st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3))
    return length, draw(st.lists(each, max_size=12))


@given(connections(), st.integers(0, 5))
def test_whatever_is_cut_nothing_is_shown_twice_and_nothing_missed(
    script: tuple[int, list[tuple[int, int, list[int]]]], after: int
) -> None:
    length, cuts = script
    after = min(after, length - 1)
    events = journal(length)
    machine = Journal(
        executions.watch("e", after_sequence=after), Patience(tries=100, first_tries=100)
    )
    shown: list[int] = []
    for back, count, beats in itertools.chain(cuts, itertools.repeat((0, length, []))):
        asked = machine.connect().request.after_sequence  # type: ignore[union-attr]
        assert asked == (shown[-1] if shown else after)
        start = max(0, asked - back)
        for index, event in enumerate(events[start : start + count]):
            if index in beats:
                assert not machine.accept(heartbeat(event.sequence - 1))
            if machine.accept(event):
                shown.append(event.sequence)
        if machine.ended:
            break
        machine.cut(UnavailableError("cut") if count % 2 else None)
    assert shown == list(range(after + 1, length + 1))


@given(st.integers(0, 10), st.integers(2, 5))
def test_a_hole_is_never_shown(seen: int, jump: int) -> None:
    machine = Journal(executions.watch("e"), QUICK)
    for event in journal(30)[:seen]:
        assert machine.accept(event)
    with pytest.raises(errors.DataLossError, match=f"event {seen + jump} came after event {seen}"):
        machine.accept(output(seen + jump))
    assert machine.connect().request.after_sequence == seen  # type: ignore[union-attr]


def pauses(machine: Journal, error: SkybridgeError | None = None) -> Iterator[float]:
    while True:
        machine.connect()
        yield machine.cut(error)


def test_pauses_grow_up_to_a_bound_and_end() -> None:
    patience = Patience(tries=9, first_tries=9, first_pause=1.0, longest_pause=8.0)
    machine = Journal(executions.watch("e"), patience)
    cuts = pauses(machine)
    waits = [next(cuts) for _ in range(8)]
    for wait, longest in zip(waits, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert longest * 0.8 <= wait <= longest
    with pytest.raises(UnavailableError, match="ended before the execution did"):
        next(cuts)


def test_who_finds_no_server_knows_sooner_than_who_lost_one() -> None:
    patience = Patience(tries=7, first_tries=2)
    fresh = Journal(executions.watch("e"), patience)
    assert fresh.cut(UnavailableError("a")) > 0
    with pytest.raises(UnavailableError, match="b"):
        fresh.cut(UnavailableError("b"))
    resumed = Journal(executions.watch("e"), patience)
    resumed.accept(output(1))
    cuts = pauses(resumed, UnavailableError("c"))
    assert len(list(itertools.islice(cuts, 6))) == 6
    with pytest.raises(UnavailableError, match="c"):
        next(cuts)


@pytest.mark.parametrize("event", [output(2), heartbeat(1)])
def test_a_connection_that_brings_something_renews_patience(event: ExecutionEvent) -> None:
    machine = Journal(executions.watch("e"), Patience(tries=2))
    machine.accept(output(1))
    machine.cut(None)
    machine.accept(event)
    machine.cut(None)
    with pytest.raises(UnavailableError):
        machine.cut(None)


def test_a_connection_that_only_repeats_brings_nothing() -> None:
    machine = Journal(executions.watch("e"), Patience(tries=2))
    machine.accept(output(1))
    machine.cut(None)
    assert not machine.accept(output(1))
    with pytest.raises(UnavailableError):
        machine.cut(None)


@pytest.mark.parametrize(
    ("error", "is_cut"),
    [
        (errors.UnavailableError("x"), True),
        (errors.UnavailableError("x", reason="SERVER_STOPPING"), True),
        (errors.InternalError("RST_STREAM"), True),
        (errors.CallCancelledError("x"), True),
        (errors.InternalError("x", reason="INTERNAL"), False),
        (errors.NotFoundError("x"), False),
        (errors.DeadlineExceededError("x"), False),
        (errors.AbortedError("x", reason="STDIN_BUSY"), False),
    ],
)
def test_only_cuts_are_resumed(error: SkybridgeError, is_cut: bool) -> None:
    machine = Journal(executions.watch("e"), QUICK)
    machine.connect()
    if is_cut:
        assert machine.cut(error) > 0
    else:
        with pytest.raises(type(error)):
            machine.cut(error)


def test_a_stdin_that_seems_taken_after_a_cut_is_asked_for_again() -> None:
    machine = Journal(executions.watch("e"), QUICK)
    machine.connect()
    machine.cut(errors.UnavailableError("x"))
    machine.connect()
    assert machine.cut(errors.AbortedError("x", reason="STDIN_BUSY")) > 0


def test_the_server_may_ask_for_a_longer_pause() -> None:
    machine = Journal(executions.watch("e"), QUICK)
    assert machine.cut(UnavailableError("x", retry_delay=7.5)) == 7.5


def test_the_timeout_spans_all_connections() -> None:
    machine = Journal(executions.watch("e", timeout=1000), Patience(first_pause=1))
    left = machine.connect().timeout
    assert left is not None
    assert 0 < left <= 1000
    machine.cut(UnavailableError("x"))
    short = Journal(executions.watch("e", timeout=0.5), Patience(first_pause=10, longest_pause=10))
    with pytest.raises(errors.DeadlineExceededError) as caught:
        short.cut(UnavailableError("x"))
    assert isinstance(caught.value.__cause__, UnavailableError)


# Both clients over a real connection


def test_a_cut_stream_goes_on_with_watch(call: Call, server: Scripted) -> None:
    server.on("StreamExecution", *stream_of(output(1), heartbeat(1), output(2)), CUT)
    server.on("WatchExecution", *watch_of(output(2), output(3)))
    server.on("WatchExecution", *watch_of(output(4), result(5)))
    events = call("stream", "hello", b"in")
    assert sequences(events) == [1, 2, 3, 4, 5]
    assert [(ask.name, ask.after_sequence) for ask in server.asked("WatchExecution")] == [
        (NAME, 2),
        (NAME, 3),
    ]


def test_a_stream_cut_before_its_first_event_is_the_same_request_again(
    call: Call, server: Scripted
) -> None:
    server.on("StreamExecution", CUT)
    server.on("StreamExecution", *stream_of(*journal(2)))
    assert sequences(call("stream", "hello", b"in", labels={"a": "b"})) == [1, 2]
    first, second = server.asked("StreamExecution")
    assert first == second
    assert first.request_id


def test_missing_events_are_asked_for_again(call: Call, server: Scripted) -> None:
    server.on("WatchExecution", *watch_of(output(1), output(3)), hang)
    server.on("WatchExecution", *watch_of(output(2), output(3), result(4)))
    assert sequences(call("watch", NAME)) == [1, 2, 3, 4]


def test_a_stream_that_stays_cut_ends_with_its_error(call: Call, server: Scripted) -> None:
    server.on("StreamExecution", *stream_of(output(1)), CUT)
    server.on("WatchExecution", CUT).on("WatchExecution", CUT)
    with pytest.raises(UnavailableError, match="Socket closed"):
        call("stream", "hello")
    assert not server.scripts["WatchExecution"]


def test_an_error_of_the_server_ends_the_stream_at_once(call: Call, server: Scripted) -> None:
    server.on("StreamExecution", Abort(Code.FAILED_PRECONDITION, reason="NOT_DEPLOYED"))
    with pytest.raises(errors.FailedPreconditionError):
        call("stream", "hello")
    assert len(server.requests) == 1


def test_watch_starts_after_what_was_seen(call: Call, server: Scripted) -> None:
    server.on("WatchExecution", *watch_of(output(3)), CUT)
    server.on("WatchExecution", *watch_of(result(4)))
    assert sequences(call("watch", "e", after_sequence=2)) == [3, 4]
    assert [ask.after_sequence for ask in server.asked("WatchExecution")] == [2, 3]


def test_a_stream_has_a_deadline_only_where_it_is_given(call: Call, server: Scripted) -> None:
    server.on("WatchExecution", *watch_of(*journal(1)))
    server.on("WatchExecution", hang)
    call("watch", NAME)
    with pytest.raises(errors.DeadlineExceededError):
        call("watch", NAME, timeout=0.2)
    endless, short = server.deadlines
    # grpc shows the absence of a deadline as one that is centuries away.
    assert endless is None or endless > 1e8
    assert short is not None
    assert short < 60
