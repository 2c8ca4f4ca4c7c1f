"""The main job, once from end to end."""

from __future__ import annotations

import pytest

from skybridge_client import AsyncClient
from tests.support.functions import collect, deploy, output, states, told

pytestmark = pytest.mark.docker


async def test_a_function_runs_in_a_container_and_its_output_streams(client: AsyncClient) -> None:
    name = await deploy(client, "echo to the log >&2; cat; echo world")

    events = await collect(client.stream(name, b"hello, "))

    assert output(events) == b"hello, world\n"
    assert output(events, stream=2) == b"to the log\n"
    assert states(events) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_execute_returns_output_log_and_verdict(client: AsyncClient) -> None:
    name = await deploy(client, "echo to the log >&2; cat; sleep 0.2; exit 7")

    execution = await client.execute(name, b"in")

    assert told(execution) == ("FAILED", "EXIT_CODE")
    assert (execution.output, execution.log_tail) == (b"in", b"to the log\n")
    assert (execution.exit_code, execution.stdout_bytes, execution.cold_start) == (7, 2, True)
    assert execution.usage.peak_memory_bytes > 0
    assert execution.usage.cpu.nanos > 0
