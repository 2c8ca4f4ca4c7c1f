"""Callers that cancel, hurry, vanish, come back, come in crowds, repeat themselves and stall."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from typing import Any, Literal

import docker
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from skybridge.faas.v1.execution_service_pb2 import OnDisconnect, StreamExecutionRequest
from skybridge.faas.v1.execution_service_pb2_grpc import ExecutionServiceStub
from skybridge_client import (
    AlreadyExistsError,
    AsyncClient,
    DeadlineExceededError,
    Execution,
    ExecutionEvent,
    FailedPreconditionError,
    OutOfRangeError,
    ResourceExhaustedError,
    is_final,
)
from tests.support.crowd import watched_crowd
from tests.support.functions import (
    GATED,
    PATIENT,
    RUNNING,
    STUBBORN,
    State,
    collect,
    deploy,
    output,
    reach,
    states,
    told,
    until_output,
)
from tests.support.server import Server
from tests.support.stubs import channel
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

CROWD_PATIENCE = 2 * PATIENCE
FINAL = (
    State.EXECUTION_STATE_SUCCEEDED,
    State.EXECUTION_STATE_FAILED,
    State.EXECUTION_STATE_TIMED_OUT,
    State.EXECUTION_STATE_CANCELLED,
)


async def open_gate(server: Server, client: AsyncClient, execution: str) -> None:
    """Let a GATED function end; it must have said that it is ready."""
    await until_output(client, execution)
    container = server.containers(f"skybridge.execution={execution}")[0]
    await asyncio.to_thread(container.kill, "SIGUSR1")


async def only_execution(client: AsyncClient, function: str) -> Execution:
    """Return the one execution of a function, once it has ended."""
    listed = [e async for e in client.list_executions(filter=f'function = "{function}"')]
    assert len(listed) == 1
    return await client.wait(listed[0].name, timeout=PATIENCE)


# -- cancelling ----------------------------------------------------------------------------------


async def test_cancelling_what_waits_ends_it_at_once(server: Server, client: AsyncClient) -> None:
    name = await deploy(client, PATIENT, max_concurrency=1)
    first = await client.start(name)
    await reach(client, first.name, RUNNING)
    waiting = await client.start(name)

    cancelled = await client.cancel(waiting.name)

    assert told(cancelled) == ("CANCELLED", "CANCELLED")
    assert not cancelled.HasField("start_time")
    assert not server.containers(f"skybridge.execution={waiting.name}")
    await client.cancel(first.name)


async def test_cancelling_what_starts(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT)

    async def cancel_at_start() -> list[ExecutionEvent]:
        events = []
        async with aclosing(client.stream(name)) as stream:
            async for event in stream:
                events.append(event)
                if event.state_change.state == State.EXECUTION_STATE_STARTING:
                    await client.cancel(event.execution)
        return events

    for events in await asyncio.gather(*(cancel_at_start() for _ in range(3))):
        assert told(events[-1].result.execution) == ("CANCELLED", "CANCELLED")
        assert states(events) == ["QUEUED", "STARTING", "CANCELLING", "CANCELLED"]


@pytest.mark.parametrize(
    ("script", "exit_code"), [(PATIENT, 143), (STUBBORN, 137)], ids=["patient", "stubborn"]
)
async def test_cancelling_what_runs(client: AsyncClient, script: str, exit_code: int) -> None:
    name = await deploy(client, f"echo ready; {script}", shutdown_grace=0.5)
    events = []
    async with aclosing(client.stream(name)) as stream:
        async for event in stream:
            events.append(event)
            if event.HasField("output"):
                answer = await client.cancel(event.execution)
                assert answer.state == State.EXECUTION_STATE_CANCELLING

    ended = events[-1].result.execution

    assert told(ended) == ("CANCELLED", "CANCELLED")
    assert ended.exit_code == exit_code
    assert states(events) == ["QUEUED", "STARTING", "RUNNING", "CANCELLING", "CANCELLED"]
    assert await client.cancel(ended.name) == await client.get_execution(ended.name)


async def test_cancelling_what_has_ended_changes_nothing(client: AsyncClient) -> None:
    name = await deploy(client, "echo out")
    ended = await client.execute(name)

    assert await client.cancel(ended.name) == ended
    assert told(ended)[0] == "SUCCEEDED"


async def test_deleting_a_function_by_force_cancels_what_runs_and_what_waits(
    client: AsyncClient,
) -> None:
    name = await deploy(client, PATIENT, max_concurrency=1)
    started = [await client.start(name) for _ in range(2)]
    await reach(client, started[0].name, RUNNING)
    with pytest.raises(FailedPreconditionError, match="force"):
        await client.delete_function(name)
    with pytest.raises(FailedPreconditionError, match="has not ended"):
        await client.delete_execution(started[0].name)

    await client.delete_function(name, force=True)

    ended = [await client.get_execution(each.name) for each in started]
    assert [told(each) for each in ended] == [("CANCELLED", "CANCELLED")] * 2
    await client.delete_execution(started[0].name)


# -- deadlines -----------------------------------------------------------------------------------


async def test_a_deadline_that_passes_in_the_queue(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT, max_concurrency=1)
    running = await client.start(name)
    await reach(client, running.name, RUNNING)

    with pytest.raises(DeadlineExceededError):
        await client.execute(name, timeout=0.3)

    await client.cancel(running.name)
    hurried = [
        e.name
        async for e in client.list_executions(filter=f'function = "{name}"')
        if e.name != running.name
    ]
    (ended,) = [await client.wait(each, timeout=PATIENCE) for each in hurried]
    assert told(ended) == ("TIMED_OUT", "DEADLINE")
    assert not ended.HasField("start_time")


async def test_a_deadline_that_passes_while_it_runs(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT)

    with pytest.raises(DeadlineExceededError):
        await client.execute(name, timeout=1.5)

    ended = await only_execution(client, name)
    assert told(ended) == ("TIMED_OUT", "DEADLINE")
    assert "deadline" in ended.failure.message


async def test_a_timeout_of_the_function_or_of_the_execution_ends_it(client: AsyncClient) -> None:
    short = await deploy(client, PATIENT, execution_timeout=0.3)
    long = await deploy(client, PATIENT)

    by_function, by_option = await asyncio.gather(
        client.execute(short), client.execute(long, run_timeout=0.3)
    )

    assert told(by_function) == told(by_option) == ("TIMED_OUT", "EXECUTION_TIMEOUT")
    assert "spec.timeouts.execution" in by_function.failure.message
    assert "options.timeout" in by_option.failure.message
    assert by_function.exit_code == 143


async def test_a_wait_in_the_queue_ends_at_its_timeout(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT, max_concurrency=1, queue_timeout=0.3)
    running = await client.start(name)
    await reach(client, running.name, RUNNING)

    ended = await client.execute(name)

    assert told(ended) == ("TIMED_OUT", "QUEUE_TIMEOUT")
    await client.cancel(running.name)


# -- vanishing and coming back -------------------------------------------------------------------


async def test_a_unary_caller_that_vanishes_cancels(client: AsyncClient) -> None:
    name = await deploy(client, PATIENT)
    call = asyncio.create_task(client.execute(name))

    async def running() -> bool:
        found = [e async for e in client.list_executions(filter=f'function = "{name}"')]
        return bool(found) and found[0].state == RUNNING

    await until(running, "the execution to run")
    call.cancel()

    ended = await only_execution(client, name)
    assert told(ended) == ("CANCELLED", "DISCONNECTED")


async def test_a_streaming_caller_that_stays_away_cancels(client: AsyncClient) -> None:
    name = await deploy(client, f"echo ready; {PATIENT}")

    async with aclosing(client.stream(name, disconnect_grace=0.2)) as stream:
        async for event in stream:
            if event.HasField("output"):
                break

    ended = await only_execution(client, name)
    assert told(ended) == ("CANCELLED", "DISCONNECTED")


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
async def test_a_streaming_caller_that_comes_back_misses_nothing(
    server: Server, client: AsyncClient, on_disconnect: Literal["cancel", "continue"]
) -> None:
    name = await deploy(client, GATED)
    seen = []
    async with aclosing(client.stream(name, on_disconnect=on_disconnect)) as stream:
        async for event in stream:
            seen.append(event)
            if event.HasField("output"):
                break

    execution, position = seen[-1].execution, seen[-1].sequence
    back = asyncio.create_task(collect(client.watch(execution, after_sequence=position)))
    await open_gate(server, client, execution)

    events = seen + await back
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert output(events) == b"ready\ndone\n"
    assert states(events)[-1] == "SUCCEEDED"


async def test_a_journal_can_be_resumed_after_any_event(client: AsyncClient) -> None:
    name = await deploy(client, "for i in 1 2 3 4 5; do echo $i; echo $i >&2; done")
    events = await collect(client.stream(name))
    execution, last = events[-1].execution, events[-1].sequence

    for position in range(last + 1):
        rest = await collect_stored(client, execution, position)
        assert rest == events[position:]
    with pytest.raises(OutOfRangeError):
        await collect(client.watch(execution, after_sequence=last + 1))


async def collect_stored(client: AsyncClient, execution: str, after: int) -> list[ExecutionEvent]:
    """Watch what has ended; after its last event nothing comes, and the stream just ends."""
    request = client.watch(execution, after_sequence=after)
    try:
        return await collect(request)
    except Exception as error:
        if "stream ended before" in str(error):
            return []
        raise


# -- crowds --------------------------------------------------------------------------------------


async def test_two_hundred_callers_on_a_limit_of_four(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    """A quarter of them stay and get answers; who leaves the queue never takes a place."""
    name = await deploy(client, "cat", max_concurrency=4, queue_timeout=CROWD_PATIENCE)

    async def stay(number: int) -> None:
        execution = await client.execute(name, str(number).encode(), timeout=CROWD_PATIENCE)
        assert told(execution)[0] == "SUCCEEDED"
        assert execution.output == str(number).encode()

    async def leave() -> None:
        started = await client.start(name, b"never mind")
        await client.cancel(started.name)
        ended = await client.wait(started.name, timeout=CROWD_PATIENCE)
        assert told(ended) == ("CANCELLED", "CANCELLED")

    async def all_stand_in_line() -> bool:
        accepted = client.list_executions(filter=f'function = "{name}"')
        return len([each async for each in accepted]) == 50

    with watched_crowd(docker_client, name) as crowd:
        staying = asyncio.gather(*(stay(number) for number in range(50)))
        await until(all_stand_in_line, "fifty callers to be accepted")
        await asyncio.gather(*(leave() for _ in range(150)))
        await staying

        async def all_gone() -> bool:
            return crowd.destroyed == 50

        await until(all_gone, "all containers to be removed")

    assert (crowd.started, crowd.running, crowd.kept) == (50, 0, 0)
    assert 2 <= crowd.most_running <= 4


async def test_who_does_not_fit_into_the_queue_is_told_when_to_come_back(
    client: AsyncClient,
) -> None:
    name = await deploy(client, PATIENT, max_concurrency=1, max_queue_depth=2)
    started = [await client.start(name) for _ in range(3)]

    with pytest.raises(ResourceExhaustedError) as caught:
        await client.start(name)

    assert caught.value.reason == "FUNCTION_QUEUE_FULL"
    assert caught.value.retry_delay == 1
    assert "max_queue_depth" in str(caught.value)
    for each in reversed(started):
        await client.cancel(each.name)


# -- repeating -----------------------------------------------------------------------------------


async def test_a_repeated_request_gets_the_first_answer(client: AsyncClient) -> None:
    name = await deploy(client, "cat; echo once >&2")
    request_id = str(uuid.uuid4())

    first, second = await asyncio.gather(
        client.execute(name, b"in", request_id=request_id),
        client.execute(name, b"in", request_id=request_id),
    )
    third = await client.execute(name, b"in", request_id=request_id)

    assert first == second == third
    assert told(first)[0] == "SUCCEEDED"
    assert len([e async for e in client.list_executions(filter=f'function = "{name}"')]) == 1
    with pytest.raises(AlreadyExistsError, match="request_id"):
        await client.execute(name, b"other", request_id=request_id)


async def test_a_repeated_stream_starts_over_with_the_same_execution(client: AsyncClient) -> None:
    name = await deploy(client, "echo out")
    request_id = str(uuid.uuid4())

    first = await collect(client.stream(name, request_id=request_id))

    assert await collect(client.stream(name, request_id=request_id)) == first


async def test_a_repeated_deployment_makes_one_revision(client: AsyncClient) -> None:
    name = await deploy(client, "true")
    request_id = str(uuid.uuid4())

    steps = [
        [step async for step in client.deploy(name, request_id=request_id)][-1] for _ in range(2)
    ]

    assert steps[0].revision == steps[1].revision
    assert [r.number async for r in client.list_revisions(name)] == [2, 1]


# -- reading -------------------------------------------------------------------------------------


async def test_a_reader_that_stalls_misses_nothing_and_slows_nobody(
    server: Server, client: AsyncClient
) -> None:
    """12 MiB are more than all buffers between function and reader together hold."""
    size = 12 << 20
    name = await deploy(client, f"head -c {size} /dev/zero; echo end >&2")
    async with channel(server.address) as wire:
        stalled: Any = ExecutionServiceStub(wire).StreamExecution(
            StreamExecutionRequest(function=name, heartbeat_interval=Duration(seconds=1))
        )
        first = await stalled.read()

        seen = await collect(client.watch(first.event.execution))

        assert states(seen)[-1] == "SUCCEEDED"
        late = [first.event]
        while (answer := await stalled.read()) is not aio.EOF:
            late.append(answer.event)
    late = [event for event in late if not event.HasField("heartbeat")]
    assert late == seen
    assert len(output(seen)) == size


@pytest.mark.parametrize("leave", ["call", "channel"])
async def test_a_reader_that_leaves_while_it_is_written_to_is_no_defect(
    server: Server, client: AsyncClient, leave: str
) -> None:
    """The log must hold no error; that of the shared server is checked when it stops, too."""
    begin = server.log_size()
    name = await deploy(client, f"head -c {8 << 20} /dev/zero")
    async with channel(server.address) as wire:
        stalled: Any = ExecutionServiceStub(wire).StreamExecution(
            StreamExecutionRequest(function=name, on_disconnect=OnDisconnect.ON_DISCONNECT_CONTINUE)
        )
        first = await stalled.read()
        ended = await client.wait(first.event.execution, timeout=PATIENCE)
        if leave == "call":
            stalled.cancel()

    async def noted() -> bool:
        ends = [(e["rpc"], e["code"]) for e in server.events(begin) if e["event"] == "call"]
        return ("skybridge.faas.v1.ExecutionService/StreamExecution", "CANCELLED") in ends

    await until(noted, "the server to note that its caller has left")
    assert told(ended)[0] == "SUCCEEDED"
    assert server.errors() == []


async def test_heartbeats_come_in_silence_and_repeat_the_last_sequence(
    server: Server, client: AsyncClient
) -> None:
    name = await deploy(client, PATIENT)
    request = StreamExecutionRequest(function=name, heartbeat_interval=Duration(seconds=1))
    async with channel(server.address) as wire:
        call: Any = ExecutionServiceStub(wire).StreamExecution(request)
        last = 0
        async for answer in call:
            if answer.event.HasField("heartbeat"):
                assert answer.event.sequence == last
                if last == 3:  # queued, starting, running; a busy engine may take its time
                    break
            last = answer.event.sequence
        await client.cancel(answer.event.execution)


async def test_waiting_for_the_end_is_bounded(server: Server, client: AsyncClient) -> None:
    name = await deploy(client, GATED)
    started = await client.start(name)

    assert not is_final(await client.wait(started.name, timeout=0.1))
    waiting = asyncio.create_task(client.wait(started.name, timeout=PATIENCE))
    await open_gate(server, client, started.name)

    assert told(await waiting)[0] == "SUCCEEDED"


async def test_following_the_logs_of_an_execution_ends_with_it(
    server: Server, client: AsyncClient
) -> None:
    name = await deploy(client, GATED)
    started = await client.start(name)
    said = []
    async with aclosing(client.logs(started.name, follow=True)) as entries:
        async for entry in entries:
            said.append(entry.output.data)
            if entry.output.data == b"ready\n":
                await open_gate(server, client, started.name)

    assert b"".join(said) == b"ready\ndone\n"


async def test_following_the_logs_of_a_function_goes_from_one_execution_to_the_next(
    client: AsyncClient,
) -> None:
    name = await deploy(client, "cat; echo log >&2")
    await client.execute(name, b"first\n")
    said = []
    async with aclosing(client.logs(name, follow=True)) as entries:
        async for entry in entries:
            said.append(entry.output.data)
            if len(said) == 2:
                await client.execute(name, b"second\n")
            if len(said) == 4:
                break

    assert sorted(said[:2]) == [b"first\n", b"log\n"]
    assert sorted(said[2:]) == [b"log\n", b"second\n"]


async def test_logs_can_be_cut_to_the_last_lines_and_one_stream(client: AsyncClient) -> None:
    name = await deploy(client, "for i in 1 2 3; do echo out$i; done; echo log >&2")
    await client.execute(name)

    lines = [entry.output.data async for entry in client.logs(name, tail_lines=2, stream="stdout")]
    log = [entry.output.data async for entry in client.logs(name, stream="stderr")]

    assert b"".join(lines) == b"out2\nout3\n"
    assert log == [b"log\n"]


async def test_everyone_sees_the_same_end_of_a_race(client: AsyncClient) -> None:
    """Exit, cancel and timeout come together; whichever wins, all readers agree."""
    name = await deploy(client, "sleep 0.2", execution_timeout=0.2)

    async def race() -> None:
        started = await client.start(name)
        watching = asyncio.create_task(collect(client.watch(started.name)))
        await reach(client, started.name, RUNNING, *FINAL)
        await client.cancel(started.name)
        events, waited = await asyncio.gather(watching, client.wait(started.name, timeout=PATIENCE))
        got = await client.get_execution(started.name)
        assert told(waited) == told(got) == told(events[-1].result.execution)
        assert got.state == events[-1].result.execution.state

    await asyncio.gather(*(race() for _ in range(4)))
