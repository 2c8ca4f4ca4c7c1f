"""One run of chaos."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from skybridge_client import AsyncClient, Patience
from tests.chaos.audit import PATIENCE, Audit, Findings
from tests.chaos.load import Functions, Load
from tests.chaos.monkeys import Monkeys
from tests.contract.own_engine import OwnEngine
from tests.support.functions import BUSYBOX
from tests.support.server import Server

NEVER_TIRED = Patience(tries=10_000, first_tries=10_000, first_pause=0.05, longest_pause=0.5)


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and what came of it."""

    deeds: dict[str, int]
    findings: Findings

    def __str__(self) -> str:
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.deeds.items()))
        return "\n".join([f"deeds: {done or 'none'}", *self.findings.lines()])


async def chaos(folder: Path, seconds: float, seed: int) -> Report:
    """Kill whatever can be killed for so long, under load, on an engine of our own."""
    (folder / "engine").mkdir()
    engine = OwnEngine(folder / "engine")
    server = Server(
        folder,
        **engine.environment,
        FAAS_MAX_CONCURRENT_EXECUTIONS="8",
        FAAS_SHUTDOWN_GRACE="500ms",
        FAAS_ON_SHUTDOWN="handover",
    )
    try:
        await asyncio.to_thread(engine.start)
        await asyncio.to_thread(engine.load, BUSYBOX)
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address, patience=NEVER_TIRED) as client:
            load = Load(client, await Functions.deployed(client), seed)
            monkeys = Monkeys(server, engine, seed)
            async with asyncio.timeout(seconds + PATIENCE), asyncio.TaskGroup() as group:
                group.create_task(load.run(seconds))
                group.create_task(monkeys.run(seconds))
            await client.pause_schedule("chaos")
            findings = await Audit(server, client, load.ledger).run()
        errors = server.errors()
        findings.wrong += [f"the server logged: {each}" for each in errors]
        await asyncio.to_thread(server.stop)
        return Report(dict(monkeys.deeds), findings)
    except BaseException:
        print(server.log_tail())
        raise
    finally:
        server.discard()
        engine.discard()
