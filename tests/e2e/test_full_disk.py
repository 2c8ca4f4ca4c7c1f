"""A disk that really is full: what was acknowledged stays, and all goes on once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skybridge_client import AsyncClient, ResourceExhaustedError, is_final
from skybridge_client.messages import GapReason
from tests.e2e.conftest import Serve
from tests.support.disk import Disk
from tests.support.functions import PATIENT, State, collect, deploy, output, reach, told
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

MIB = 1 << 20
DISK_BYTES = 128 * MIB
FLOOD_BYTES = 128 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    Disk.require()
    disk = Disk(tmp_path / "disk", DISK_BYTES)
    yield disk
    disk.discard()


@pytest.fixture
def small_server(serve: Serve, disk: Disk) -> Iterator[Server]:
    server = serve(FAAS_DATABASE=str(disk.folder / "skybridge.db"))
    yield server
    server.discard()  # before its disk goes


async def accepted(client: AsyncClient, name: str) -> bool:
    """Try once; what is refused must be told why, and when to come back."""
    try:
        await client.start(name)
    except ResourceExhaustedError as error:
        if error.reason == "STORAGE_FULL" and error.retry_delay:
            return False
        raise
    return True


async def test_the_last_room_is_for_what_runs(small_server: Server, disk: Disk) -> None:
    async with AsyncClient(small_server.address) as client:
        ticking = await client.start(await deploy(client, "while true; do date; sleep 0.1; done"))
        await reach(client, ticking.name, State.EXECUTION_STATE_RUNNING)
        quick = await deploy(client, "true")
        disk.fill(leaving=16 * MIB)

        async def refused() -> bool:
            return not await accepted(client, quick)

        async def ticks() -> bool:
            return (await client.get_execution(ticking.name)).last_sequence > seen

        await until(refused, "executions to be refused")
        seen = (await client.get_execution(ticking.name)).last_sequence
        await until(ticks, "what runs to go on")
        disk.free()
        await until(lambda: accepted(client, quick), "executions to be accepted")
        await client.cancel(ticking.name)
        ended = await client.wait(ticking.name)
        assert told(ended) == ("CANCELLED", "CANCELLED")
        events = await collect(client.watch(ticking.name))
        assert len(output(events)) == ended.stdout_bytes
    small_server.stop()


async def test_a_full_disk_loses_nothing_that_was_acknowledged(
    small_server: Server, disk: Disk
) -> None:
    async with AsyncClient(small_server.address) as client:
        echo = await deploy(client, "cat")
        acknowledged = {(await client.execute(echo, b"%d" % n)).name: n for n in range(10)}
        quiet = await client.start(await deploy(client, PATIENT))
        await reach(client, quiet.name, State.EXECUTION_STATE_RUNNING)
        disk.fill(leaving=64 * MIB)
        flood = await client.start(
            await deploy(client, f"head -c {FLOOD_BYTES} /dev/zero", output_bytes=FLOOD_BYTES)
        )

        async def full() -> bool:
            """Its end is small: it may still find room, or it waits for some."""
            waits = any(line["event"] == "end not stored" for line in small_server.events())
            return waits or is_final(await client.get_execution(flood.name))

        await until(full, "the disk to be full")
        disk.fill(leaving=0)
        assert not await accepted(client, echo)
        await check_all(client, acknowledged)

        disk.free()
        await until(lambda: accepted(client, echo), "executions to be accepted")
        ended = await client.wait(flood.name, timeout=PATIENCE)
        assert told(ended) == ("FAILED", "INTERNAL")
        assert "disk of the database is full" in ended.failure.message
        events = await collect(client.watch(flood.name))
        kept = len(output(events))
        gap = next(event.gap for event in events if event.HasField("gap"))
        assert (gap.offset, gap.reason) == (kept, GapReason.GAP_REASON_STORAGE_UNAVAILABLE)
        await client.cancel(quiet.name)
        assert told(await client.wait(quiet.name)) == ("CANCELLED", "CANCELLED")
        await check_all(client, acknowledged)
    small_server.stop()
    small_server.start()
    async with AsyncClient(small_server.address) as client:
        await check_all(client, acknowledged)
        assert (await client.get_execution(flood.name)).failure == ended.failure
        assert (await client.execute(echo, b"again")).output == b"again"


async def check_all(client: AsyncClient, acknowledged: dict[str, int]) -> None:
    for name, number in acknowledged.items():
        execution = await client.get_execution(name)
        assert told(execution)[0] == "SUCCEEDED"
        assert output(await collect(client.watch(name))) == b"%d" % number
