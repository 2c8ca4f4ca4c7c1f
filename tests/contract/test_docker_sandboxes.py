"""Networks that are kept for containers which have none: who gets one, and that none tells on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    EntryPointError,
    RuntimeUnavailableError,
    StaleContainerError,
)
from skybridge_server.models.functions import MIB, Isolation, Network
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.contract.own_engine import OwnEngine
from tests.contract.test_docker_runtime import Engine
from tests.contract.test_runtimes import read_until
from tests.support.sandboxes import SandboxedRuntime
from tests.support.waiting import until

pytestmark = pytest.mark.docker

BUSYBOX = "skybridge-local/busybox"
PYTHON = "skybridge-local/python:3.11"

LISTENER = """
import os, signal, socket, sys, time
loopback = socket.create_server(("127.0.0.1", 4711))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 4712))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0skybridge-test")
abstract.listen()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # now it has no parent that would end it
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        sys.stdout.write("stays")
        sys.stdout.flush()
        time.sleep(1000)
time.sleep(1000 if "wait" in sys.argv else 0.2)
"""
VISITOR = """
import socket
def reach(kind, address):
    with socket.socket(kind) as attempt:
        return attempt.connect_ex(address)
print(reach(socket.AF_INET, ("127.0.0.1", 4711)), reach(socket.AF_UNIX, "\\0skybridge-test"))
for table in ("tcp", "udp", "unix"):
    print(table, len(open("/proc/net/" + table).readlines()))
"""
ECONNREFUSED = 111


class Sandboxed(Engine):
    """An engine whose runtime keeps networks."""

    runtime: SandboxedRuntime

    async def network_of(self, container_id: str) -> str:
        """Return the id of the sandbox that a container has joined, '' if none."""
        found = await asyncio.to_thread(self.client.inspect_container, container_id)
        mode: str = found["HostConfig"]["NetworkMode"]
        return mode.removeprefix("container:") if mode.startswith("container:") else ""

    async def create(self, script: str = "true", **changes: Any) -> tuple[str, str]:
        """Create a container; return its id and that of its sandbox."""
        container_id = await self.runtime.containers.create(self.spec(script, **changes))
        return container_id, await self.network_of(container_id)

    async def play(self, script: str = "true", **changes: Any) -> tuple[str, str]:
        """Run a container from creation to removal; return its output and its sandbox."""
        container_id, sandbox = await self.create(script, **changes)
        output = await self.finish(container_id)
        await self.runtime.rest()
        return output, sandbox

    async def finish(self, container_id: str) -> str:
        containers = self.runtime.containers
        attachment = await self.attach(container_id)
        await containers.start(container_id)
        output = b"".join([data async for _, data in attachment.output()])
        await containers.wait(container_id)
        await containers.remove(container_id)
        return output.decode()

    async def sandboxes(self) -> list[dict[str, Any]]:
        """Return its sandboxes as the engine knows them."""
        label = [f"{key}={value}" for key, value in self.runtime.labels.items()]
        found: list[dict[str, Any]] = await asyncio.to_thread(
            lambda: self.client.containers(all=True, filters={"label": label})
        )
        return found

    async def until_gone(self) -> None:
        async def gone() -> bool:
            return not await self.sandboxes()

        await until(gone, "all sandboxes to go")
        await self.runtime.rest()  # until they do not count any more

    async def remove_sandbox(self, sandbox: str) -> None:
        await asyncio.to_thread(self.client.remove_container, sandbox, force=True)


@pytest.fixture(params=[1])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Sandboxed]:
    """Give one that keeps so many."""
    runtime = SandboxedRuntime(maximum=request.param)
    image = await runtime.images.get(BUSYBOX)
    assert image, "run scripts/images"
    made = Sandboxed(runtime, image.id)
    await runtime.warm_up()
    yield made
    for attachment in made.attachments:
        await attachment.close()
    for record in await runtime.containers.list(made.labels):
        await runtime.containers.remove(record.id)
    await runtime.close()
    assert await made.sandboxes() == []
    made.client.close()


async def python(engine: Sandboxed, program: str) -> dict[str, Any]:
    image = await engine.runtime.images.get(PYTHON)
    assert image, "run scripts/images"
    return {"image_id": image.id, "command": ("python3", "-c"), "args": (program,)}


# -- who gets one ---------------------------------------------------------------------------------


async def test_one_execution_after_the_other_gets_the_same(engine: Sandboxed) -> None:
    played = [await engine.play(f"echo {number}") for number in range(3)]
    assert [output for output, _ in played] == ["0\n", "1\n", "2\n"]
    assert len({sandbox for _, sandbox in played} - {""}) == 1


async def test_two_at_once_never_share_one(engine: Sandboxed) -> None:
    first, sandbox = await engine.create()
    assert sandbox
    second, other = await engine.create()
    assert other == ""  # it does not wait: it has a network of its own
    containers = engine.runtime.containers
    await containers.remove(second)
    await engine.runtime.rest()
    assert (await engine.create())[1] == ""
    await containers.remove(first)
    await engine.runtime.rest()
    assert (await engine.create())[1] == sandbox


async def test_what_is_created_ahead_has_one_though_it_must_be_made(engine: Sandboxed) -> None:
    await engine.runtime.warm_up()
    lent = [await engine.create(ahead=True) for _ in range(engine.runtime.maximum)]
    assert all(network for _, network in lent)
    assert (await engine.create(ahead=True))[1] == "", "there are no more"
    await engine.runtime.containers.remove(lent[0][0])
    assert (await engine.create(ahead=True))[1] == lent[0][1], "it was not waited for"


@pytest.mark.parametrize("engine", [2], indirect=True)
async def test_half_of_them_are_left_by_what_is_created_ahead(engine: Sandboxed) -> None:
    waiting, sandbox = await engine.create(ahead=True)
    assert sandbox
    assert (await engine.create(ahead=True))[1] == ""
    _, other = await engine.create()
    assert other not in {"", sandbox}
    await engine.finish(waiting)  # from now on it does not wait any more
    assert (await engine.create(ahead=True))[1] == sandbox


@pytest.mark.parametrize(
    "changes",
    [
        {"network": Network.EGRESS},
        {"isolation": Isolation(writable_root=True)},
        {"isolation": Isolation(oci_runtime="runc")},
    ],
    ids=["egress", "writable root", "an OCI runtime of its own"],
)
async def test_who_could_leave_something_gets_none(
    engine: Sandboxed, changes: dict[str, Any]
) -> None:
    assert (await engine.create(**changes))[1] == ""


async def test_a_creation_that_fails_costs_no_sandbox(engine: Sandboxed) -> None:
    broken = engine.spec("true", image_id="sha256:" + "0" * 64)
    with pytest.raises(Exception, match="deploy the function again"):
        await engine.runtime.containers.create(broken)
    await engine.runtime.rest()
    assert (await engine.create())[1]


async def test_an_entry_point_that_is_missing_is_told_at_once(engine: Sandboxed) -> None:
    container_id, sandbox = await engine.create(command=("/no/such/command",))
    assert sandbox
    with pytest.raises(EntryPointError):
        await engine.runtime.containers.start(container_id)


async def test_what_does_not_start_in_one_is_tried_without(engine: Sandboxed) -> None:
    nobody = Isolation(user="no-such-user")
    container_id, sandbox = await engine.create(isolation=nobody)
    assert sandbox
    with pytest.raises(StaleContainerError):
        await engine.runtime.containers.start(container_id)
    await engine.runtime.containers.remove(container_id)
    again, sandbox = await engine.create(isolation=nobody)
    assert sandbox == ""
    with pytest.raises(ContainerStartError, match="no-such-user") as caught:
        await engine.runtime.containers.start(again)
    assert not isinstance(caught.value, StaleContainerError)


# -- what is seen in it ---------------------------------------------------------------------------


async def test_a_sandbox_is_fenced_in_as_functions_are(engine: Sandboxed) -> None:
    (sandbox,) = await engine.sandboxes()
    config = engine.client.inspect_container(sandbox["Id"])
    host = config["HostConfig"]
    assert (host["CapDrop"], host["NetworkMode"], host["ReadonlyRootfs"]) == (["ALL"], "none", True)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (16 * MIB, 16 * MIB, 16)
    assert host["AutoRemove"]
    assert config["Config"]["User"] == "65532:65532"
    assert engine.runtime.labels.items() <= sandbox["Labels"].items()
    top = engine.client.top(sandbox["Id"])
    assert [process[-1] for process in top["Processes"]] == ["/sandbox"]


async def test_functions_see_in_it_what_they_see_without(engine: Sandboxed) -> None:
    script = (
        "cat /etc/hosts /etc/resolv.conf; ls /sys/class/net; ip address; cat /proc/net/route;"
        "for table in dev tcp udp unix; do cat /proc/net/$table; done;"
        "[ $HOSTNAME = $(hostname) ] && [ $HOSTNAME = $(cat /etc/hostname) ] && echo one name;"
        "echo /proc/[0-9]*"
    )
    kept, sandbox = await engine.play(script)
    assert sandbox
    plain, none = await engine.play(script, isolation=Isolation(oci_runtime="runc"))
    assert none == ""
    assert kept == plain
    assert "one name\n/proc/1\n" in kept
    assert (await engine.play("hostname"))[0] == "function\n"


@pytest.mark.parametrize("ending", ["by itself", "killed"])
async def test_listeners_and_processes_of_one_are_gone_for_the_next(
    engine: Sandboxed, ending: str
) -> None:
    containers = engine.runtime.containers
    program = LISTENER.replace("sys.argv", repr(["wait"] if ending == "killed" else []))
    container_id, sandbox = await engine.create(**await python(engine, program))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"stays")
    if ending == "killed":
        await containers.remove(container_id)
    else:
        assert (await containers.wait(container_id)).code == 0
        await containers.remove(container_id)
    await engine.runtime.rest()

    seen, next_sandbox = await engine.play(**await python(engine, VISITOR))

    assert next_sandbox == sandbox != ""
    assert seen.splitlines() == [
        f"{ECONNREFUSED} {ECONNREFUSED}",
        "tcp 1",  # the head of the table only
        "udp 1",
        "unix 1",
    ]


TALK = """
import socket
listener = socket.create_server(("127.0.0.1", 4711))
client = socket.create_connection(("127.0.0.1", 4711))
server, _ = listener.accept()
server.close()
client.close()
listener.close()
print(open("/proc/net/tcp").read().count(" 06 "))  # sockets in TIME_WAIT outlive their process
"""


@pytest.mark.parametrize(
    "script",
    [
        "nc -w 1 127.0.0.1 9",  # refused, and yet counted
        "nc -u -w 1 192.0.2.1 53 </dev/null; nc -w 1 192.0.2.1 80",  # no way out, and yet counted
    ],
)
async def test_a_network_in_which_anything_was_tried_is_never_used_again(
    engine: Sandboxed, script: str
) -> None:
    _, sandbox = await engine.play(script)
    assert sandbox
    assert await engine.sandboxes() == []
    assert (await engine.play(script))[1] == ""  # nor does this program get another
    assert await engine.sandboxes() == []
    assert (await engine.play())[1] == ""
    _, other = await engine.play()
    assert other not in {"", sandbox}


async def test_sockets_that_linger_are_not_left_to_the_next(engine: Sandboxed) -> None:
    output, sandbox = await engine.play(**await python(engine, TALK))
    assert output == "1\n"
    assert sandbox
    assert await engine.sandboxes() == []


# -- hands from outside ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "remove"])
async def test_one_that_is_ended_while_idle(engine: Sandboxed, how: str) -> None:
    (sandbox,) = await engine.sandboxes()
    if how == "kill":
        await asyncio.to_thread(engine.client.kill, sandbox["Id"])
    else:
        await engine.remove_sandbox(sandbox["Id"])
    await engine.until_gone()
    assert await engine.play("echo plain") == ("plain\n", "")
    output, other = await engine.play("echo kept")
    assert output == "kept\n"
    assert other not in {"", sandbox["Id"]}


async def test_one_that_is_ended_while_used(engine: Sandboxed) -> None:
    containers = engine.runtime.containers
    container_id, sandbox = await engine.create(
        "echo ready; read line; echo $line; ls /sys/class/net"
    )
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"ready")

    await engine.remove_sandbox(sandbox)

    await attachment.write(b"undisturbed\n")
    await read_until(attachment, b"undisturbed\nlo\n")
    assert (await containers.wait(container_id)).code == 0
    await containers.remove(container_id)
    await engine.runtime.rest()
    assert (await engine.play())[1] == ""
    assert (await engine.play())[1] not in {"", sandbox}


@pytest.mark.parametrize("how", ["kill", "remove"])
async def test_one_that_is_ended_between_creation_and_start(engine: Sandboxed, how: str) -> None:
    containers = engine.runtime.containers
    container_id, sandbox = await engine.create("echo late")
    if how == "kill":
        await asyncio.to_thread(engine.client.kill, sandbox)
    else:
        await engine.remove_sandbox(sandbox)
    await engine.until_gone()
    with pytest.raises(StaleContainerError):
        await containers.start(container_id)
    await containers.remove(container_id)
    await engine.runtime.rest()
    assert await engine.play("echo late") == ("late\n", "")
    assert (await engine.play("echo late"))[1] not in {"", sandbox}  # the program is not to blame


async def test_a_container_that_is_removed_before_its_start_is_told_as_such(
    engine: Sandboxed,
) -> None:
    container_id, sandbox = await engine.create()
    await engine.remove_sandbox(container_id)
    with pytest.raises(ContainerGoneError):
        await engine.runtime.containers.start(container_id)
    await engine.runtime.containers.remove(container_id)
    await engine.runtime.rest()
    assert (await engine.create())[1] == sandbox


async def test_a_cancelled_creation_gives_its_sandbox_up(engine: Sandboxed) -> None:
    (sandbox,) = await engine.sandboxes()
    creating = asyncio.create_task(engine.runtime.containers.create(engine.spec("true")))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await engine.until_gone()

    async def nothing_left() -> bool:
        return not await engine.runtime.containers.list(engine.labels)

    await until(nothing_left, "the container to be removed")
    assert (await engine.play())[1] == ""
    assert (await engine.play())[1] not in {"", sandbox["Id"]}


# -- what lists show, and what is left ------------------------------------------------------------


async def test_lists_show_those_of_others_only(engine: Sandboxed) -> None:
    containers = engine.runtime.containers
    (mine,) = await engine.sandboxes()
    assert await containers.list(engine.runtime.labels) == ()
    other = DockerRuntime()
    (seen,) = await other.containers.list(engine.runtime.labels)
    assert seen.id == mine["Id"]
    await other.containers.remove(seen.id)
    await other.close()
    await engine.until_gone()


async def test_who_dies_leaves_no_sandbox(engine: Sandboxed) -> None:
    """Its connections close, as the kernel closes those of a process that is killed."""
    (sandbox,) = engine.runtime.kept._idle
    await sandbox.close()
    await engine.until_gone()


async def test_closing_ends_what_is_lent_too(engine: Sandboxed) -> None:
    _, sandbox = await engine.create()
    assert sandbox
    await engine.runtime.kept.close()
    assert await engine.sandboxes() == []


# -- an engine that goes away ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    OwnEngine.require()
    made = OwnEngine(tmp_path_factory.mktemp("engine"))
    try:
        made.start()
        made.load(BUSYBOX)
        yield made
    finally:
        made.discard()


@pytest.fixture
async def afar(own: OwnEngine, request: pytest.FixtureRequest) -> AsyncIterator[Sandboxed]:
    """An engine of our own; with the parameter `tls`, it seems to be on another host."""
    by_tls = getattr(request, "param", "") == "tls"
    runtime = SandboxedRuntime(1, own.tls_environment if by_tls else own.environment)
    image = await runtime.images.get(BUSYBOX)
    assert image
    made = Sandboxed(runtime, image.id)
    made.client.close()
    with closing(own.client()) as client:
        made.client = client.api
        await runtime.warm_up()
        yield made
        for attachment in made.attachments:
            await attachment.close()
        for record in await runtime.containers.list(made.labels):
            await runtime.containers.remove(record.id)
        await runtime.close()
        await made.until_gone()
    gc.collect()  # what is dropped is told of here


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_an_engine_that_goes_away_and_comes_back(
    own: OwnEngine, afar: Sandboxed, how: str
) -> None:
    (before,) = await afar.sandboxes()
    getattr(own, how)()
    with pytest.raises(RuntimeUnavailableError):
        await afar.runtime.containers.create(afar.spec("true"))
    own.start()
    output, sandbox = await afar.play("echo back")
    assert output == "back\n"
    assert sandbox == ""
    afar.runtime.kept._resting_until = 0.0
    await afar.runtime.warm_up()
    output, sandbox = await afar.play("echo kept")
    assert output == "kept\n"
    assert sandbox not in {"", before["Id"]}


@pytest.mark.parametrize("afar", ["tls"], indirect=True)
async def test_an_engine_on_another_host(afar: Sandboxed) -> None:
    played = [await afar.play(f"echo {number}") for number in range(2)]
    assert [output for output, _ in played] == ["0\n", "1\n"]
    assert len({sandbox for _, sandbox in played} - {""}) == 1
    _, sandbox = await afar.play("nc -w 1 127.0.0.1 9")
    assert sandbox
    assert await afar.sandboxes() == []


async def test_an_engine_that_goes_away_with_one_lent(own: OwnEngine, afar: Sandboxed) -> None:
    containers = afar.runtime.containers
    container_id, sandbox = await afar.create("sleep 1000")
    await containers.start(container_id)
    own.kill()
    own.start()
    await containers.remove(container_id)
    await afar.runtime.rest()
    afar.runtime.kept._resting_until = 0.0
    await afar.runtime.warm_up()
    assert (await afar.play())[1] not in {"", sandbox}


async def test_image_that_is_removed_is_made_again(afar: Sandboxed) -> None:
    # On an engine of our own: on the one of the machine, others may be using it.
    (sandbox,) = await afar.sandboxes()
    image = sandbox["ImageID"]
    await afar.remove_sandbox(sandbox["Id"])
    await afar.until_gone()
    await asyncio.to_thread(afar.client.remove_image, image, force=True)
    await afar.runtime.warm_up()
    (again,) = await afar.sandboxes()
    assert again["Image"].startswith("skybridge/sandbox:") or again["ImageID"] != image
