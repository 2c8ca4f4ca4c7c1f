"""What only a Docker Engine can show of reachable containers: their networks, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    RuntimeUnavailableError,
    StaleContainerError,
)
from skybridge_server.models.functions import Network
from skybridge_server.models.ports import PortAccess
from skybridge_server.runtimes.docker_engine import calls, port_opener
from tests.contract.test_docker_sandboxes import BUSYBOX, Sandboxed, python
from tests.contract.test_ports import ECHO, PORT, exchange
from tests.contract.test_runtimes import read_until
from tests.support.sandboxes import SandboxedRuntime
from tests.support.waiting import until

pytestmark = pytest.mark.docker

NETWORKS = pytest.mark.parametrize("network", Network, ids=["none", "egress"])


@pytest.fixture(params=[PortAccess.NAMESPACE, PortAccess.RELAY])
def way(request: pytest.FixtureRequest) -> PortAccess:
    chosen: PortAccess = request.param
    return chosen


@pytest.fixture
async def engine(way: PortAccess) -> AsyncIterator[Sandboxed]:
    # Keeping none, so that what is there was made for a container.
    runtime = SandboxedRuntime(maximum=0, port_access=way)
    image = await runtime.images.get(BUSYBOX)
    assert image, "run scripts/images"
    made = Sandboxed(runtime, image.id)
    yield made
    for attachment in made.attachments:
        await attachment.close()
    for record in await runtime.containers.list(made.labels):
        await runtime.containers.remove(record.id)
    await runtime.close()
    assert await made.sandboxes() == []
    made.client.close()


async def serve(engine: Sandboxed, network: Network = Network.NONE) -> tuple[str, str]:
    """Start the echo, wait until it listens; return its id and that of its sandbox."""
    program = await python(engine, ECHO.python)
    container_id, sandbox = await engine.create(**program, reachable=True, network=network)
    attachment = await engine.attach(container_id)
    await engine.runtime.containers.start(container_id)
    await read_until(attachment, b"listens")
    return container_id, sandbox


def descriptors(kind: str = "") -> int:
    """Return how many descriptors this process holds, but sockets: Python tells of lost ones."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            target = str(entry.readlink())
            found += target.startswith(kind) and not target.startswith("socket:")
    return found


# -- networks -------------------------------------------------------------------------------------


@NETWORKS
async def test_each_has_a_network_of_its_own(engine: Sandboxed, network: Network) -> None:
    first, sandbox = await serve(engine, network)
    second, other = await engine.create("sleep 1000", reachable=True, network=network)
    assert sandbox
    assert other not in {"", sandbox}
    await engine.runtime.containers.start(second)
    assert await exchange(await engine.runtime.connect(first, PORT), b"mine") == b"mine"
    with pytest.raises(ConnectionRefusedError):
        await engine.runtime.connect(second, PORT)


async def test_names_are_resolved_as_in_any_container_on_the_bridge(engine: Sandboxed) -> None:
    program = "cat /etc/resolv.conf; cat /etc/hosts | grep localhost"
    container_id, _ = await engine.create(program, reachable=True, network=Network.EGRESS)
    seen = await engine.finish(container_id)
    plain, _ = await engine.play(program, network=Network.EGRESS)
    assert seen == plain
    assert "nameserver 127.0.0.11" in seen

    resolve = "import socket; print(socket.gethostbyname(input()), flush=True); input()"
    changes = await python(engine, resolve)
    container_id, sandbox = await engine.create(**changes, reachable=True, network=Network.EGRESS)
    attachment = await engine.attach(container_id)
    await engine.runtime.containers.start(container_id)
    found = await asyncio.to_thread(engine.client.inspect_container, sandbox)
    await attachment.write(f"{found['Name'].removeprefix('/')}\n".encode())
    address = found["NetworkSettings"]["Networks"]["skybridge-egress"]["IPAddress"]
    await read_until(attachment, address.encode())


async def test_instances_on_the_bridge_never_reach_each_other(engine: Sandboxed) -> None:
    server, sandbox = await engine.create(
        "nc -ll -p 8080 -e echo hello", reachable=True, network=Network.EGRESS
    )
    await engine.runtime.containers.start(server)

    async def listens() -> bool:
        try:
            connection = await engine.runtime.connect(server, PORT)
        except ConnectionRefusedError:
            return False
        return await exchange(connection, b"") == b"hello\n"

    await until(listens, "the server to listen")
    found = await asyncio.to_thread(engine.client.inspect_container, sandbox)
    address = found["NetworkSettings"]["Networks"]["skybridge-egress"]["IPAddress"]
    visit = f"nc -w 2 {address} 8080 </dev/null || echo no way; ip route"
    visitor, _ = await engine.create(visit, reachable=True, network=Network.EGRESS)
    output = await engine.finish(visitor)
    assert "hello" not in output
    assert "no way" in output
    assert "default via" in output  # and yet there is a way out


# -- what is left ---------------------------------------------------------------------------------


async def test_removal_leaves_nothing(engine: Sandboxed, way: PortAccess) -> None:
    async def use() -> int:
        container_id, _ = await serve(engine)
        await engine.runtime.listen(container_id, PORT + 1, socket.socket.close)
        assert await exchange(await engine.runtime.connect(container_id, PORT), b"hi") == b"hi"
        assert descriptors("net:") == (1 if way is PortAccess.NAMESPACE else 0)
        assert await engine.runtime.containers.list(engine.runtime.labels) == ()  # it is in use
        await engine.attachments.pop().close()
        await engine.runtime.containers.remove(container_id)
        assert await engine.sandboxes() == []
        assert descriptors("net:") == 0
        return descriptors()

    kept = await use()  # such as connections to the engine
    for _ in range(2):
        assert await use() <= kept
    assert not any(thread.name == "network-namespace" for thread in threading.enumerate())


async def test_a_cancelled_creation_leaves_nothing(engine: Sandboxed) -> None:
    await engine.runtime.check()
    for steps in range(0, 60, 15):
        creating = asyncio.create_task(
            engine.runtime.containers.create(engine.spec("true", reachable=True))
        )
        for _ in range(steps):
            await asyncio.sleep(0.002)
        creating.cancel()
        with suppress(asyncio.CancelledError):
            await engine.runtime.containers.remove(await creating)

    async def nothing() -> bool:
        mine = await engine.runtime.containers.list(engine.labels)
        return not mine and not await engine.sandboxes()

    await until(nothing, "containers and sandboxes to go")
    assert descriptors("net:") == 0


async def test_a_creation_that_fails_leaves_nothing(engine: Sandboxed) -> None:
    broken = engine.spec("true", image_id="sha256:" + "0" * 64, reachable=True)
    with pytest.raises(Exception, match="deploy the function again"):
        await engine.runtime.containers.create(broken)
    assert await engine.sandboxes() == []


# -- hands from outside ---------------------------------------------------------------------------


async def test_a_sandbox_that_is_ended_before_the_start(engine: Sandboxed) -> None:
    container_id, sandbox = await engine.create("true", reachable=True)
    await engine.remove_sandbox(sandbox)
    await engine.until_gone()
    with pytest.raises(StaleContainerError):
        await engine.runtime.containers.start(container_id)


async def test_a_container_that_is_removed_behind_our_back(engine: Sandboxed) -> None:
    container_id, _ = await serve(engine)
    await engine.remove_sandbox(container_id)
    with pytest.raises(ConnectionRefusedError):
        await engine.runtime.connect(container_id, PORT)
    await engine.runtime.containers.remove(container_id)
    assert await engine.sandboxes() == []
    with pytest.raises(ContainerGoneError):
        await engine.runtime.connect(container_id, PORT)


async def test_a_sandbox_that_is_ended_while_used(engine: Sandboxed, way: PortAccess) -> None:
    container_id, sandbox = await serve(engine)
    reader, writer = await asyncio.open_connection(
        sock=await engine.runtime.connect(container_id, PORT)
    )
    await engine.remove_sandbox(sandbox)
    await engine.until_gone()
    writer.write(b"on")
    if way is PortAccess.NAMESPACE:  # which takes no sandbox once it is entered
        assert await reader.readexactly(2) == b"on"
        assert await exchange(await engine.runtime.connect(container_id, PORT), b"on") == b"on"
    else:
        with suppress(ConnectionError):
            assert await reader.read() == b""
        with pytest.raises(RuntimeUnavailableError, match="its sandbox has ended"):
            await engine.runtime.connect(container_id, PORT)
        with pytest.raises(RuntimeUnavailableError):
            await engine.runtime.listen(container_id, PORT + 1, socket.socket.close)
    writer.close()


# -- which way it is ------------------------------------------------------------------------------


async def way_of(access: PortAccess) -> str:
    runtime = SandboxedRuntime(maximum=0, port_access=access)
    try:
        return await runtime.way_to_ports()
    finally:
        await runtime.close()


async def test_the_fast_way_is_taken_where_it_can_be() -> None:
    assert await way_of(PortAccess.AUTO) == "in the network of their container"


@pytest.mark.parametrize(
    "broken", ["boot", "process"], ids=["on another host", "with processes of its own"]
)
async def test_what_is_not_the_network_of_the_sandbox_is_never_entered(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if broken == "boot":
        (tmp_path / "boot_id").write_text("another\n")
        monkeypatch.setattr(port_opener, "BOOT_ID", tmp_path / "boot_id")
    else:
        monkeypatch.setattr(calls, "process", lambda *_: os.getpid())
    assert (await way_of(PortAccess.AUTO)).startswith("by relay: the engine ")
    with pytest.raises(ContainerStartError, match="FAAS_PORT_ACCESS"):
        await way_of(PortAccess.NAMESPACE)
    assert descriptors("net:") == 0


async def test_without_the_right_to_enter_it_is_the_relay() -> None:
    """A server in a container, or without root, has no CAP_SYS_ADMIN on the engine's host."""
    give_up = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    program = (
        "import asyncio\n"
        "from skybridge_server.runtimes.docker_engine import DockerRuntime\n"
        "async def main():\n"
        "    runtime = DockerRuntime(sandbox_labels={'skybridge.test': 'doctor'})\n"
        "    print(await runtime.way_to_ports())\n"
        "    await runtime.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(give_up if os.geteuid() == 0 else ()),
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines()[-1].startswith("by relay: ")


async def test_the_doctor_tells_which_way_it_is(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "skybridge_server", "doctor", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FAAS_DATABASE": str(tmp_path / "skybridge.db"),
            "FAAS_PORT_ACCESS": "relay",
        },
    )
    output, _ = await process.communicate()
    told = {each["subject"]: each["message"] for each in json.loads(output)}
    assert told["engine docker, ports"] == "are reached by relay: as FAAS_PORT_ACCESS says"
