"""Functions for tests: a shell script each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, Iterable
from typing import Unpack

from skybridge_client import AsyncClient, Execution, ExecutionEvent, ExecutionState, FailureReason
from skybridge_client.specs import FunctionFields
from tests.support.waiting import until

BUSYBOX = "skybridge-local/busybox:latest"
PYTHON = "skybridge-local/python:3.11"

State = ExecutionState
Reason = FailureReason
QUEUED, RUNNING = State.EXECUTION_STATE_QUEUED, State.EXECUTION_STATE_RUNNING

PATIENT = "trap 'exit 143' TERM; sleep 1000 & wait"
"""A script that runs until it is told to end, and then ends at once."""
GATED = "trap 'echo done; exit 0' USR1; echo ready; sleep 1000 & wait"
"""A script that says when it is ready, and ends well once it gets SIGUSR1."""
STUBBORN = "trap '' TERM; while true; do sleep 1; done"
"""A script that ends by SIGKILL only."""


def new_id(prefix: str = "f") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


async def deploy(client: AsyncClient, script: str, **fields: Unpack[FunctionFields]) -> str:
    """Create and deploy a function that runs a shell script; return its id."""
    fields["command"] = ["/bin/sh", "-c", script]
    return await deploy_spec(client, **fields)


async def deploy_python(client: AsyncClient, program: str, **fields: Unpack[FunctionFields]) -> str:
    """Do the same with a Python program."""
    fields["command"] = ["python3", "-c", program]
    fields["image"] = PYTHON
    return await deploy_spec(client, **fields)


async def deploy_spec(client: AsyncClient, **fields: Unpack[FunctionFields]) -> str:
    """Create and deploy a function, of busybox unless said otherwise; return its id."""
    name = new_id()
    fields.setdefault("image", BUSYBOX)
    fields.setdefault("pull_policy", "never")
    await client.create_function(name, **fields)
    async for _ in client.deploy(name):
        pass
    return name


async def reach(client: AsyncClient, execution: str, *states: State.ValueType) -> Execution:
    """Wait until an execution is in one of these states, and return it."""
    found: list[Execution] = []

    async def there() -> bool:
        found[:] = [await client.get_execution(execution)]
        return found[0].state in states

    await until(there, f"{execution} to be {'/'.join(map(State.Name, states))}")
    return found[0]


async def until_output(client: AsyncClient, execution: str) -> None:
    """Wait until an execution has written to stdout."""

    async def has_output() -> bool:
        return (await client.get_execution(execution)).stdout_bytes > 0

    await until(has_output, f"output of {execution}")


async def collect(events: AsyncIterable[ExecutionEvent]) -> list[ExecutionEvent]:
    return [event async for event in events]


async def run(
    client: AsyncClient, script: str, stdin: bytes = b"", **fields: Unpack[FunctionFields]
) -> Execution:
    """Deploy a script and execute it once."""
    return await client.execute(await deploy(client, script, **fields), stdin)


def output(events: Iterable[ExecutionEvent], stream: int = 1) -> bytes:
    """Return what a stream says in all; its offsets must be dense but for gaps."""
    pieces, offset = [], 0
    for event in events:
        if event.HasField("output") and event.output.stream == stream:
            assert event.output.offset == offset, "output has a hole, or came twice"
            pieces.append(event.output.data)
            offset += len(event.output.data)
        elif event.HasField("gap") and event.gap.stream == stream:
            assert event.gap.offset == offset
            offset += event.gap.length
    return b"".join(pieces)


def states(events: Iterable[ExecutionEvent]) -> list[str]:
    """Return the states that a journal goes through, by short name, the final one too."""
    found = []
    for event in events:
        if event.HasField("state_change"):
            found.append(event.state_change.state)
        elif event.HasField("result"):
            found.append(event.result.execution.state)
    return [State.Name(state).removeprefix("EXECUTION_STATE_") for state in found]


def told(execution: Execution) -> tuple[str, str]:
    """Return state and reason by short name, for one assertion on both."""
    return (
        State.Name(execution.state).removeprefix("EXECUTION_STATE_"),
        Reason.Name(execution.failure.reason).removeprefix("FAILURE_REASON_"),
    )
