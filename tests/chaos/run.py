"""One run of chaos."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from skybridge_client import AsyncClient, Patience
from tests.chaos.audit import Audit, Findings
from tests.chaos.load import Functions, Load
from tests.chaos.monkeys import MIB, Monkeys
from tests.contract.own_engine import OwnEngine
from tests.support.disk import Disk
from tests.support.functions import BUSYBOX, PYTHON
from tests.support.server import Server

NEVER_TIRED = Patience(tries=10_000, first_tries=10_000, first_pause=0.05, longest_pause=0.5)
DISK_BYTES = 256 * MIB
AFTERMATH = 480
"""Seconds for all that was accepted to end, and to be looked at. A run ends by then at the latest:
with LONG of __main__.py that is within half an hour."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and what came of it."""

    deeds: dict[str, int]
    crashes: dict[str, int]
    not_crashed_at: list[str]
    findings: Findings

    def __str__(self) -> str:
        lines = [f"deeds: {_counts(self.deeds)}", f"crashed when: {_counts(self.crashes)}"]
        if self.not_crashed_at:
            lines.append(f"not reached: {', '.join(self.not_crashed_at)}")
        return "\n".join([*lines, *self.findings.lines()])


def _counts(counted: dict[str, int]) -> str:
    return "; ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "none"


async def chaos(folder: Path, seconds: float, seed: int) -> Report:
    """Kill whatever can be killed for so long, under load, on an engine and a disk of our own.

    TimeoutError: it did not come to an end.
    """
    with ExitStack() as made:
        disk = Disk(folder / "disk", DISK_BYTES)
        made.callback(disk.discard)
        (folder / "engine").mkdir()
        engine = OwnEngine(folder / "engine")
        made.callback(engine.discard)
        server = Server(
            folder,
            **engine.environment,
            FAAS_DATABASE=str(disk.folder / "skybridge.db"),
            FAAS_MAX_CONCURRENT_EXECUTIONS="8",
            FAAS_SHUTDOWN_GRACE="500ms",
            FAAS_ON_SHUTDOWN="handover",
        )
        made.callback(server.discard)
        try:
            await asyncio.to_thread(engine.start)
            for image in (BUSYBOX, PYTHON):
                await asyncio.to_thread(engine.load, image)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(seconds + AFTERMATH):
                monkeys = Monkeys(server, engine, disk, seed)
                findings = await _harm_and_look(server, monkeys, seconds, seed)
            await asyncio.to_thread(server.end)
        except BaseException:
            print(server.log_tail())
            raise
        return Report(dict(monkeys.deeds), dict(monkeys.crashes), monkeys.not_crashed_at, findings)


async def _harm_and_look(server: Server, monkeys: Monkeys, seconds: float, seed: int) -> Findings:
    async with AsyncClient(server.address, patience=NEVER_TIRED) as client:
        began = time.monotonic()
        load = Load(client, await Functions.deployed(client), seed)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await monkeys.run(seconds)
            load.stop()
        print(f"{time.monotonic() - began:.0f} s: harm is done", flush=True)
        await client.pause_schedule("chaos")
        findings = await Audit(server, client, load.ledger).run()
        await client.drain(handover=False)  # or it would leave its instances
    findings.wrong += [f"the server logged: {each}" for each in server.errors()]
    return findings
