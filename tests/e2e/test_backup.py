"""Backups taken while a server works, and what a server makes of them once they are restored."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from skybridge_client import AsyncClient, is_final
from tests.e2e.conftest import Serve
from tests.support.command import Ran, run
from tests.support.functions import State, collect, deploy, output, told
from tests.support.server import Server

pytestmark = pytest.mark.docker

CALLERS = 3
ENOUGH = 6


def command(server: Server, *words: str | Path) -> Ran:
    """Run `skybridge-server` beside a server, on the same database."""
    return run("", "skybridge-server", *words, FAAS_DATABASE=server.setting("FAAS_DATABASE"))


def done(ran: Ran) -> str:
    assert ran.code == 0, ran.err
    return ran.out


class Load:
    """Callers that execute and start, and remember what was acknowledged."""

    def __init__(self, client: AsyncClient, function: str) -> None:
        self._client = client
        self._function = function
        self._numbers = iter(range(10**9))
        self._stop = asyncio.Event()
        self._enough = asyncio.Event()
        self.ended: dict[str, bytes] = {}
        self.started: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())

    async def _call(self) -> None:
        while not self._stop.is_set():
            data = b"%d" % next(self._numbers)
            self.ended[(await self._client.execute(self._function, data)).name] = data
            self.started.add((await self._client.start(self._function, data)).name)
            if len(self.ended) >= ENOUGH:
                self._enough.set()

    async def enough(self) -> None:
        await self._enough.wait()

    def stop(self) -> None:
        self._stop.set()


async def test_a_backup_under_load_shows_all_that_was_acknowledged(
    serve: Serve, tmp_path: Path
) -> None:
    server, file = serve(), tmp_path / "backup.db"
    async with AsyncClient(server.address) as client:
        load = Load(client, await deploy(client, "cat"))
        loading = asyncio.create_task(load.run())
        await load.enough()
        ended, started = dict(load.ended), set(load.started)
        backing_up = asyncio.to_thread(command, server, "backup", "--json", file)
        made = json.loads(done(await backing_up))
        load.stop()
        await loading
    refused = command(server, "restore", file)
    assert refused.code == 1
    assert "in use by another server" in refused.err
    server.stop()  # both are the same server to the engine

    restored = serve(ready=False)
    restoring = command(restored, "restore", "--json", "--sha256", made["sha256"], file)
    assert json.loads(done(restoring))["database"]["executions"] == made["executions"]
    restored.start()
    assert restored.id == server.id
    async with AsyncClient(restored.address) as client:
        for name, data in ended.items():
            execution = await client.get_execution(name)
            assert told(execution)[0] == "SUCCEEDED"
            assert output(await collect(client.watch(name))) == data
        for name in started:
            execution = await client.wait(name)
            assert is_final(execution)
            assert told(execution) in {("SUCCEEDED", "UNSPECIFIED"), ("FAILED", "LOST")}
    restored.stop()


async def test_a_restore_brings_back_and_keeps_what_it_replaces(
    serve: Serve, tmp_path: Path
) -> None:
    server, file = serve(), tmp_path / "backup.db"
    async with AsyncClient(server.address) as client:
        before = await client.execute(await deploy(client, "cat"), b"before")
        done(command(server, "backup", file))
        after = await client.execute(before.function, b"after")
    server.stop()
    told_by_restore = done(command(server, "restore", file))
    kept = Path(told_by_restore.rpartition(": ")[2].strip())
    with sqlite3.connect(kept) as connection:
        count = connection.execute("SELECT count(*) FROM executions").fetchone()
    connection.close()
    assert count == (2,)
    server.start()
    async with AsyncClient(server.address) as client:
        assert [e.name async for e in client.list_executions()] == [before.name]
        assert after.state == State.EXECUTION_STATE_SUCCEEDED
    server.stop()
