"""Functions that flood, starve, eat, fork, ignore, close and break: each ends in a true state."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from skybridge_client import AsyncClient, ExecutionEvent
from skybridge_client.messages import GapReason
from tests.support.functions import (
    GATED,
    STUBBORN,
    State,
    collect,
    deploy,
    deploy_python,
    output,
    reach,
    run,
    told,
)
from tests.support.server import Server
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.docker

MIB = 1 << 20
RSS_GROWTH = 48 * MIB
STDOUT, STDERR = 1, 2


@asynccontextmanager
async def bounded_memory(server: Server) -> AsyncIterator[None]:
    """Look all the while that the server does not pile up what a function writes."""
    before = server.rss_bytes()
    highest = before

    async def look() -> None:
        nonlocal highest
        while True:
            highest = max(highest, server.rss_bytes())
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert highest - before <= RSS_GROWTH


def gaps(events: list[ExecutionEvent]) -> list[tuple[int, int, int, int]]:
    found = [event.gap for event in events if event.HasField("gap")]
    return [(gap.stream, gap.offset, gap.length, gap.reason) for gap in found]


# -- output --------------------------------------------------------------------------------------


async def test_a_gibibyte_is_drained_counted_and_marked_by_one_gap(
    server: Server, client: AsyncClient
) -> None:
    blocks = "dd if=/dev/zero bs=64k count=16384 2>/dev/null"  # smaller ones cost twice as much
    name = await deploy(client, blocks, output_bytes=MIB)

    async with bounded_memory(server):
        events = await collect(client.stream(name))

    ended = events[-1].result.execution
    assert told(ended) == ("FAILED", "OUTPUT_LIMIT")
    assert "spec.resources.output_bytes" in ended.failure.message
    assert (ended.exit_code, ended.stdout_bytes) == (0, 1024 * MIB)
    assert output(events) == bytes(MIB)
    over = GapReason.GAP_REASON_OUTPUT_LIMIT
    assert gaps(events) == [(STDOUT, MIB, 1023 * MIB, over)]


async def test_a_long_log_is_cut_and_fails_nothing(client: AsyncClient) -> None:
    name = await deploy(client, f"head -c {2 * MIB} /dev/zero >&2; echo out", output_bytes=MIB)

    events = await collect(client.stream(name))

    ended = events[-1].result.execution
    assert (told(ended)[0], ended.stderr_bytes) == ("SUCCEEDED", 2 * MIB)
    assert gaps(events) == [(STDERR, MIB, MIB, GapReason.GAP_REASON_OUTPUT_LIMIT)]
    assert output(events) == b"out\n"


HASHES = """
import hashlib, sys
for number in range({blocks}):
    sys.stdout.buffer.write(hashlib.sha256(str(number).encode()).digest() * 2048)
"""


async def test_a_quarter_gibibyte_arrives_byte_by_byte(server: Server, client: AsyncClient) -> None:
    blocks = 256 * MIB // (64 << 10)
    name = await deploy_python(client, HASHES.format(blocks=blocks), output_bytes=256 * MIB)
    expected, received, size = hashlib.sha256(), hashlib.sha256(), 0

    async with bounded_memory(server), aclosing(client.stream(name)) as events:
        async for event in events:
            if event.HasField("output"):
                assert event.output.offset == size
                size += len(event.output.data)
                received.update(event.output.data)

    for number in range(blocks):
        expected.update(hashlib.sha256(str(number).encode()).digest() * 2048)
    assert told(event.result.execution) == ("SUCCEEDED", "UNSPECIFIED")
    assert (size, received.digest()) == (256 * MIB, expected.digest())


async def test_more_output_than_fits_an_answer_is_read_from_the_journal(
    client: AsyncClient,
) -> None:
    ended = await run(client, f"head -c {4 * MIB} /dev/zero")

    assert ended.output_truncated
    assert len(ended.output) == 3 * MIB
    logged = [entry.output.data async for entry in client.logs(ended.name, stream="stdout")]
    assert b"".join(logged) == bytes(4 * MIB)


async def test_printing_nothing_is_well(client: AsyncClient) -> None:
    events = await collect(client.stream(await deploy(client, "true")))

    assert told(events[-1].result.execution)[0] == "SUCCEEDED"
    assert not any(event.HasField("output") or event.HasField("gap") for event in events)


async def test_any_byte_passes_both_ways(client: AsyncClient) -> None:
    data = bytes(range(256)) * 512

    ended = await run(client, "cat; cat /proc/self/environ >&2", data)

    assert ended.output == data
    assert b"\0SKYBRIDGE_EXECUTION_ID=" in b"\0" + ended.log_tail


@pytest.mark.parametrize(
    ("script", "verdict", "code", "log"),
    [
        ("exec >&-; sleep 0.3; echo on >&2; exit 0", "SUCCEEDED", 0, b"on\n"),
        ("exec >&- 2>&-; sleep 0.3; exit 4", "FAILED", 4, b""),
        ("echo out; exec >&- 2>&- <&-; sleep 0.3", "SUCCEEDED", 0, b""),
    ],
    ids=["stdout", "stdout-and-stderr", "all"],
)
async def test_closing_streams_early_is_not_an_end(
    client: AsyncClient, script: str, verdict: str, code: int, log: bytes
) -> None:
    ended = await run(client, script)

    assert (told(ended)[0], ended.exit_code, ended.log_tail) == (verdict, code, log)
    # On a busy machine the engine says late that it has started.
    assert (ended.timings.start.ToMilliseconds() + ended.timings.run.ToMilliseconds()) >= 300


# -- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "said"), [("true", b""), ("head -c 10", b"x" * 10)])
async def test_input_need_not_be_read(client: AsyncClient, script: str, said: bytes) -> None:
    ended = await run(client, script, b"x" * (3 * MIB))

    assert (told(ended)[0], ended.output) == ("SUCCEEDED", said)


async def test_the_longest_input_is_read_whole(client: AsyncClient) -> None:
    ended = await run(client, "wc -c", b"x" * (3 * MIB))

    assert ended.output.strip() == str(3 * MIB).encode()


async def test_input_also_stands_in_the_environment_if_asked(client: AsyncClient) -> None:
    ended = await run(client, 'cat; printf %s "$SKYBRIDGE_INPUT"', b"both", input_mode="env")

    assert ended.output == b"bothboth"


# -- resources -----------------------------------------------------------------------------------


async def test_forks_end_at_the_limit(client: AsyncClient) -> None:
    ended = await run(client, "while sleep 100 & do :; done", pids=16)

    assert told(ended) == ("FAILED", "EXIT_CODE")
    assert b"fork" in ended.log_tail
    assert "spec.resources.pids" in ended.failure.message


EAT = "bytearray(1 << 30)"
CHILD_EATS = """
import subprocess, sys, time
child = subprocess.run([sys.executable, "-c", "bytearray(1 << 30)"])
time.sleep(1)
sys.exit({code} if child.returncode == -9 else 99)
"""


async def test_eating_memory_is_out_of_memory(client: AsyncClient) -> None:
    name = await deploy_python(client, EAT, memory_bytes=48 * MIB)

    ended = await client.execute(name)

    assert told(ended) == ("FAILED", "OUT_OF_MEMORY")
    assert (ended.exit_code, ended.failure.signal) == (137, 9)
    assert ended.usage.oom_killed
    assert "spec.resources.memory_bytes" in ended.failure.message


async def test_a_child_that_eats_memory_is_told_whether_its_parent_fails_or_not(
    client: AsyncClient,
) -> None:
    async def with_code(code: int) -> tuple[str, str]:
        program = CHILD_EATS.format(code=code)
        name = await deploy_python(client, program, memory_bytes=48 * MIB)
        ended = await client.execute(name)
        assert (ended.exit_code, ended.usage.oom_killed) == (code, True)
        return told(ended)

    well, failed = await asyncio.gather(with_code(0), with_code(5))

    assert well == ("SUCCEEDED", "UNSPECIFIED")
    assert failed == ("FAILED", "OUT_OF_MEMORY")


# -- ends ----------------------------------------------------------------------------------------


async def test_ignoring_sigterm_helps_nothing(client: AsyncClient) -> None:
    ended = await run(client, STUBBORN, execution_timeout=0.3, shutdown_grace=0.3)

    assert told(ended) == ("TIMED_OUT", "EXECUTION_TIMEOUT")
    assert ended.exit_code == 137


async def test_a_clean_exit_after_sigterm_is_still_a_timeout(client: AsyncClient) -> None:
    script = "trap 'echo cleaned; exit 0' TERM; sleep 1000 & wait"

    ended = await run(client, script, execution_timeout=0.5)

    assert told(ended) == ("TIMED_OUT", "EXECUTION_TIMEOUT")
    assert (ended.exit_code, ended.output) == (0, b"cleaned\n")


async def test_exit_codes_and_signals_are_told_apart(client: AsyncClient) -> None:
    by_code, by_signal = await asyncio.gather(
        run(client, "exit 42"), run(client, "sh -c 'kill -SEGV $$'; exit $?")
    )

    assert (told(by_code), by_code.exit_code) == (("FAILED", "EXIT_CODE"), 42)
    assert (told(by_signal), by_signal.exit_code) == (("FAILED", "SIGNAL"), 139)
    assert by_signal.failure.signal == 11
    assert "SIGSEGV" in by_signal.failure.message


async def test_a_kill_from_outside_is_a_signal_of_others(
    server: Server, client: AsyncClient
) -> None:
    started = await client.start(await deploy(client, GATED))
    await reach(client, started.name, State.EXECUTION_STATE_RUNNING)
    container = server.containers(f"skybridge.execution={started.name}")[0]

    await asyncio.to_thread(container.kill, "SIGKILL")

    ended = await client.wait(started.name, timeout=PATIENCE)
    assert (told(ended), ended.failure.signal) == (("FAILED", "SIGNAL"), 9)
    assert "not sent by Skybridge" in ended.failure.message


# -- our defaults, when they are what a function runs into ---------------------------------------


@pytest.mark.parametrize(
    ("script", "field"),
    [
        ("touch /here", "spec.isolation.writable_root"),
        ("nc -w 1 192.0.2.1 80", "spec.network"),
        ("dd if=/dev/zero of=/tmp/big bs=64k count=17", "spec.resources.tmp_bytes"),
        ("chown 0 /tmp", "spec.isolation.user"),
    ],
)
async def test_the_message_names_the_field_that_opens(
    client: AsyncClient, script: str, field: str
) -> None:
    ended = await run(client, script, tmp_bytes=MIB)

    assert told(ended) == ("FAILED", "EXIT_CODE")
    assert field in ended.failure.message, ended.log_tail


async def test_tmp_holds_what_it_is_said_to_hold(client: AsyncClient) -> None:
    ended = await run(
        client, f"head -c {MIB} /dev/zero >/tmp/big && wc -c </tmp/big", tmp_bytes=MIB
    )

    assert ended.output.strip() == str(MIB).encode()
