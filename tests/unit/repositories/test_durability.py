"""What was acknowledged survives a killed process and a full disk, tried with real ones."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.journal import Output
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.store import SqliteRepositories
from tests.support.executions import unfinished
from tests.support.waiting import PATIENCE

WRITERS = """
import asyncio, sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName, new_id
from skybridge_server.repositories.store import SqliteRepositories

NOW = datetime(2026, 1, 1, tzinfo=UTC)

def execution():
    name = ExecutionName("default", new_id())
    return Execution(name, FunctionName("default", "hello"), "uid", 1, NOW)

def output(sequence, data=b"x" * 5000):
    return [Event(sequence, NOW, Output(OutputStream.STDOUT, 0, data))]

def acknowledge(*words):
    print(*words, flush=True)
"""

KILLED = """
async def write(store):
    while True:
        added = execution()
        await store.executions.add(added, b"input", output(1))
        acknowledge(added.name.execution, 1)
        for sequence in range(2, 5):
            state = replace(added, state=ExecutionState.RUNNING, last_sequence=sequence)
            await store.executions.append(added.name, output(sequence), state)
            acknowledge(added.name.execution, sequence)

async def main():
    store = await SqliteRepositories.open(Path(sys.argv[1]))
    await asyncio.gather(*(write(store) for _ in range(16)))

asyncio.run(main())
"""

FULL = """
import os, resource
from skybridge_server.errors import StorageError

def limit_files_to(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    path = Path(sys.argv[1])
    store = await SqliteRepositories.open(path)
    added = execution()
    await store.executions.add(added, b"", output(1))
    acknowledge("ok", 1)
    limit_files_to(os.stat(f"{path}-wal").st_size + 300_000)
    sequence = 2
    while True:
        try:
            await store.executions.append(added.name, output(sequence))
        except StorageError as error:
            acknowledge("full", sequence, str(error))
            break
        acknowledge("ok", sequence)
        sequence += 1
    assert (await store.executions.get(added.name)) == added  # reading goes on
    limit_files_to(resource.RLIM_INFINITY)
    for sequence in range(sequence, sequence + 3):
        await store.executions.append(added.name, output(sequence))
        acknowledge("ok", sequence)
    await store.close()

asyncio.run(main())
"""


async def test_a_killed_server_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "skybridge.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITERS + KILLED, path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in range(300):
                execution, sequence = (await process.stdout.readline()).split()
                acknowledged[execution.decode()] = int(sequence)
    finally:
        process.send_signal(signal.SIGKILL)
    rest, _ = await process.communicate()
    for line in rest.splitlines(keepends=True):
        if line.endswith(b"\n"):
            execution, sequence = line.split()
            acknowledged[execution.decode()] = int(sequence)

    store = await SqliteRepositories.open(path)
    for execution_id, last in acknowledged.items():
        name = ExecutionName("default", execution_id)
        events = await store.executions.events(name, after=0, limit_bytes=2**20)
        assert [event.sequence for event in events] == [*range(1, len(events) + 1)]
        assert len(events) >= last
        assert await store.executions.get_input(name) == b"input"
        stored = await store.executions.get(name)
        # State and events of one call were written together.
        if len(events) == 1:
            assert stored.state is ExecutionState.QUEUED
        else:
            assert (stored.state, stored.last_sequence) == (ExecutionState.RUNNING, len(events))
    await store.close()


async def test_a_full_disk_fails_writes_until_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "skybridge.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITERS + FULL, path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        printed, _ = await process.communicate()
    assert process.returncode == 0
    lines = [line.split(maxsplit=2) for line in printed.decode().splitlines()]
    refused = [line for line in lines if line[0] == "full"]
    assert len(refused) == 1
    assert "the database cannot be used now" in refused[0][2]
    acknowledged = [int(line[1]) for line in lines if line[0] == "ok"]

    store = await SqliteRepositories.open(path)
    (name,) = [execution.name for execution in await unfinished(store)]
    events = await store.executions.events(name, after=0, limit_bytes=2**24)
    assert [event.sequence for event in events] == acknowledged == [*range(1, len(events) + 1)]
    assert all(isinstance(event.body, Output) and len(event.body.data) == 5000 for event in events)
    await store.close()
