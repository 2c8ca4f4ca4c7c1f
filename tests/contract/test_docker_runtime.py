"""What only a Docker Engine can show: how containers are fenced in, pulls, pauses, restarts."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import docker
import pytest
import requests

from skybridge_server.errors import ContainerStartError, RuntimeUnavailableError
from skybridge_server.models.functions import MIB, Isolation, Network, Resources
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import Attachment, ContainerSpec
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.contract.test_runtimes import read_until
from tests.support.pausing import pause
from tests.support.sandboxes import SandboxedRuntime
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker


class Engine:
    """A runtime, and docker-py beside it to look behind its back."""

    def __init__(self, runtime: DockerRuntime, image_id: str) -> None:
        self.runtime = runtime
        self.image_id = image_id
        self.labels = {"skybridge.test": uuid.uuid4().hex}
        self.client = docker.APIClient(version="auto")
        self.attachments: list[Attachment] = []

    def spec(self, script: str, **changes: object) -> ContainerSpec:
        spec = ContainerSpec(
            name=f"skybridge-test-{uuid.uuid4().hex}",
            image_id=self.image_id,
            command=("sh", "-c"),
            args=(script,),
            env={},
            labels=self.labels,
            working_dir="",
            resources=Resources(),
            network=Network.NONE,
            isolation=Isolation(),
            stop_grace=timedelta(seconds=1),
        )
        return replace(spec, **changes)  # type: ignore[arg-type]

    async def attach(self, container_id: str) -> Attachment:
        self.attachments.append(await self.runtime.containers.attach(container_id))
        return self.attachments[-1]

    async def run(self, script: str, **changes: object) -> str:
        """Return what a script writes to stdout and stderr, whatever it exits with."""
        containers = self.runtime.containers
        container_id = await containers.create(self.spec(script, **changes))
        attachment = await self.attach(container_id)
        await containers.start(container_id)
        output = b"".join([data async for _, data in attachment.output()])
        await containers.wait(container_id)
        return output.decode()


@pytest.fixture(params=["plain", "sandboxed"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    runtime = await _runtime(sandboxed=request.param == "sandboxed")
    image = await runtime.images.get("skybridge-local/busybox")
    assert image, "run scripts/images"
    made = Engine(runtime, image.id)
    async with asyncio.timeout(PATIENCE):
        yield made
        for attachment in made.attachments:
            await attachment.close()
        for record in await runtime.containers.list(made.labels):
            await runtime.containers.remove(record.id)
    await runtime.close()
    made.client.close()


async def _runtime(*, sandboxed: bool) -> DockerRuntime:
    if not sandboxed:
        return DockerRuntime()
    runtime = SandboxedRuntime(maximum=1)
    await runtime.warm_up()
    return runtime


# -- the fence, seen from inside ------------------------------------------------------------------


async def test_user_and_privileges(engine: Engine) -> None:
    assert await engine.run("id -u; id -g") == "65532\n65532\n"
    status = await engine.run("cat /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert {name: int(fields[name], 16) for name in ("CapEff", "CapBnd", "CapInh", "CapPrm")} == (
        dict.fromkeys(("CapEff", "CapBnd", "CapInh", "CapPrm"), 0)
    )
    assert (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()) == ("1", "2")


async def test_root_is_read_only_and_tmp_is_not(engine: Engine) -> None:
    output = await engine.run("touch /file; cp /bin/busybox /tmp/ && /tmp/busybox echo runs; mount")
    assert "/file: Read-only file system" in output
    assert "runs" in output
    (tmp,) = (line for line in output.splitlines() if " on /tmp " in line)
    assert {"nosuid", "nodev"} <= set(tmp.split("(")[1].strip(")").split(","))


async def test_root_can_be_made_writable(engine: Engine) -> None:
    isolation = Isolation(user="0:0", writable_root=True)
    assert await engine.run("touch /file && id -u", isolation=isolation) == "0\n"


async def test_size_of_tmp(engine: Engine) -> None:
    resources = Resources(tmp_bytes=MIB)
    output = await engine.run(
        "dd if=/dev/zero of=/tmp/f bs=64k count=32; wc -c </tmp/f", resources=resources
    )
    assert "No space left on device" in output
    assert str(MIB) in output.splitlines()


async def test_processes_are_limited(engine: Engine) -> None:
    script = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done"
    output = await engine.run(script, resources=Resources(pids=10))
    assert "can't fork: Resource temporarily unavailable" in output


async def test_no_network(engine: Engine) -> None:
    assert (await engine.run("ls /sys/class/net")).split() == ["lo"]
    assert "Network is unreachable" in await engine.run("nc -w 1 192.0.2.1 80 </dev/null")


async def test_limits_and_log_at_the_engine(engine: Engine) -> None:
    resources = Resources(memory_bytes=32 * MIB, cpu_millis=500, pids=7, output_bytes=3 * MIB)
    container_id = await engine.runtime.containers.create(engine.spec("true", resources=resources))
    config = engine.client.inspect_container(container_id)["HostConfig"]
    assert config["Memory"] == config["MemorySwap"] == 32 * MIB
    assert (config["NanoCpus"], config["PidsLimit"]) == (500_000_000, 7)
    assert config["LogConfig"]["Config"]["max-size"] == str(3 * MIB)
    assert not config["Privileged"]


async def test_more_processors_than_the_host_has_means_all(engine: Engine) -> None:
    spec = engine.spec("true", resources=Resources(cpu_millis=10_000_000))
    container_id = await engine.runtime.containers.create(spec)
    assert engine.client.inspect_container(container_id)["HostConfig"]["NanoCpus"] == (
        engine.client.info()["NCPU"] * 10**9
    )


async def test_an_oci_runtime_that_the_engine_lacks(engine: Engine) -> None:
    spec = engine.spec("true", isolation=Isolation(oci_runtime="no-such"))
    with pytest.raises(ContainerStartError, match="no-such"):
        await engine.runtime.containers.create(spec)


async def test_a_working_directory_and_environment(engine: Engine) -> None:
    output = await engine.run("pwd; echo $GREETING", working_dir="/tmp", env={"GREETING": "hi you"})
    assert output == "/tmp\nhi you\n"


# -- the bridge -----------------------------------------------------------------------------------


async def test_functions_on_the_bridge_never_reach_each_other(engine: Engine) -> None:
    containers = engine.runtime.containers
    script = "nc -ll -p 8080 -e echo hello"
    server = await containers.create(engine.spec(script, network=Network.EGRESS))
    await containers.start(server)
    networks = engine.client.inspect_container(server)["NetworkSettings"]["Networks"]
    assert list(networks) == ["skybridge-egress"]
    address = networks["skybridge-egress"]["IPAddress"]
    assert await _greeting(address) == b"hello\n"  # the host reaches it: it does listen
    output = await engine.run(
        f"nc -w 2 {address} 8080 </dev/null || echo no way; ip route", network=Network.EGRESS
    )
    assert "hello" not in output
    assert "no way" in output
    assert "default via" in output  # and yet there is a way out


async def _greeting(address: str) -> bytes:
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, 8080)
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
        else:
            greeting = await reader.read()
            writer.close()
            await writer.wait_closed()
            return greeting


# -- boundaries ---------------------------------------------------------------------------------


async def test_a_boundary_is_behind_what_was_written_before(engine: Engine) -> None:
    containers = engine.runtime.containers
    script = "while read word; do echo $word; (echo $word >&2); done"
    container_id = await containers.create(engine.spec(script))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    write = await engine.runtime.boundary_writer(container_id)
    assert write is not None
    came = dict.fromkeys(OutputStream, b"")
    output = attachment.output()
    expected = b""
    for number in range(20):
        await attachment.write(b"%d\n" % number)
        expected += b"%d\n" % number
        while any(came[stream] != expected for stream in OutputStream):
            stream, data = await anext(output)
            came[stream] += data
        write(b"end\n", [*OutputStream])
        expected += b"end\n"


async def test_a_boundary_gets_into_a_stream_that_was_put_aside(engine: Engine) -> None:
    """While a shell redirects commands of its own, its streams are others."""
    containers = engine.runtime.containers
    script = "read go; { echo elsewhere; read more; } >&2"
    container_id = await containers.create(engine.spec(script))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    write = await engine.runtime.boundary_writer(container_id)
    assert write is not None
    await attachment.write(b"go\n")
    output = attachment.output()
    assert await anext(output) == (OutputStream.STDERR, b"elsewhere\n")
    assert {*write(b"end\n", [*OutputStream])} == {*OutputStream}
    assert {await anext(output), await anext(output)} == {(each, b"end\n") for each in OutputStream}


@pytest.mark.parametrize("script", ["exec 2>&1", "exec >/tmp/log", "exec >&-"])
async def test_streams_that_a_function_replaced_take_no_boundary(
    engine: Engine, script: str
) -> None:
    containers = engine.runtime.containers
    container_id = await containers.create(engine.spec(f"read go; {script}; cat >/dev/null"))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    write = await engine.runtime.boundary_writer(container_id)
    assert write is not None
    await attachment.write(b"go\n")

    async def refused() -> bool:
        try:
            return not write(b"x", [*OutputStream])
        except OSError:
            return True

    await until(refused, "the streams to be replaced")
    assert await engine.runtime.boundary_writer(container_id) is None


# -- usage ----------------------------------------------------------------------------------------


async def test_usage_while_it_runs(engine: Engine) -> None:
    containers = engine.runtime.containers
    script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 100"
    container_id = await containers.create(engine.spec(script))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"done")
    usage = await engine.runtime.usage(container_id)
    assert usage.cpu
    assert usage.cpu > timedelta(0)
    assert usage.peak_memory_bytes
    assert 0 < usage.peak_memory_bytes <= 128 * MIB
    assert not usage.oom_killed


async def test_usage_tells_of_a_child_that_ran_out_of_memory(engine: Engine) -> None:
    containers = engine.runtime.containers
    container_id = await containers.create(engine.spec("tail /dev/zero; echo survived; sleep 100"))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"survived")
    assert (await engine.runtime.usage(container_id)).oom_killed


async def test_processes_as_the_kernel_and_the_engine_count_them(engine: Engine) -> None:
    containers = engine.runtime.containers
    container_id = await containers.create(engine.spec("sleep 100 & sleep 100 & echo ready; wait"))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"ready")
    assert await engine.runtime.processes(container_id) == 3
    assert await engine.runtime._plain.processes(container_id) == 3


# -- hands from outside ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 42), ("SIGKILL", 137), ("SIGUSR1", 43)])
async def test_a_signal_wakes_a_paused_container(engine: Engine, name: str, code: int) -> None:
    containers = engine.runtime.containers
    script = "trap 'exit 42' TERM; trap 'exit 43' USR1; echo ready; while :; do sleep 0.01; done"
    container_id = await containers.create(engine.spec(script))
    attachment = await engine.attach(container_id)
    await containers.start(container_id)
    await read_until(attachment, b"ready")
    await pause(engine.runtime, container_id)
    await containers.signal(container_id, name)
    assert (await containers.wait(container_id)).code == code


async def test_output_before_the_attachment_is_in_the_log(engine: Engine) -> None:
    containers = engine.runtime.containers
    container_id = await containers.create(engine.spec("echo early"))
    await containers.start(container_id)
    await containers.wait(container_id)
    assert engine.client.logs(container_id) == b"early\n"


# -- files ---------------------------------------------------------------------------------------


def volumes(engine: Engine) -> list[str]:
    """Return the volumes of a test's containers, also of those that are gone."""
    (label,) = (f"{key}={value}" for key, value in engine.labels.items())
    found = engine.client.volumes({"label": [label]})["Volumes"]
    return [volume["Name"] for volume in found or ()]


LOOK = "cd /run/secrets; stat -c '%n %u:%g %a' *; head -c 64 *"
HARM = (
    "cd /run/secrets; echo x > new; chmod 777 .;"
    " for f in *; do rm $f; chmod 600 $f; echo x >> $f; done"
)


@pytest.mark.parametrize(
    ("user", "mode"), [("65532:65532", "440"), ("1000:100", "440"), ("7", "444")]
)
async def test_files_are_for_the_user_to_read_and_no_more(
    engine: Engine, user: str, mode: str
) -> None:
    files = {"db-password": b"geheim\n", "Key_1.pem": b"-----\n"}
    changes: dict[str, object] = {"files": files, "isolation": Isolation(user=user)}
    output = await engine.run(LOOK, **changes)
    group = user.partition(":")[2] or "0"
    assert f"Key_1.pem 0:{group} {mode}\ndb-password 0:{group} {mode}\n" in output
    assert "geheim" in output
    output = await engine.run(HARM, **changes)
    assert output.count("Permission denied") + output.count("not permitted") == 2 + 3 * len(files)


async def test_files_are_seen_by_nobody_else_and_go_with_their_container(engine: Engine) -> None:
    containers = engine.runtime.containers
    spec = engine.spec("sleep 1000", files={"a": b"geheim"})
    assert "geheim" not in repr(spec)
    container_id = await containers.create(spec)
    await containers.start(container_id)
    assert "geheim" not in str(engine.client.inspect_container(container_id))
    assert len(volumes(engine)) == 1
    await engine.runtime.forget_files(engine.labels)  # those of one that lives stay
    assert len(volumes(engine)) == 1
    await containers.remove(container_id)
    assert volumes(engine) == []


async def test_files_that_others_left_are_found(engine: Engine) -> None:
    container_id = await engine.runtime.containers.create(engine.spec("true", files={"a": b"x"}))
    engine.client.remove_container(container_id, force=True)  # as `docker rm` does, without -v
    assert len(volumes(engine)) == 1
    await engine.runtime.forget_files({"skybridge.test": "another"})
    assert len(volumes(engine)) == 1
    await engine.runtime.forget_files(engine.labels)
    assert volumes(engine) == []


async def test_nothing_is_left_where_files_cannot_be_written(engine: Engine) -> None:
    with pytest.raises(ContainerStartError, match=r"files of spec\.secrets cannot be written"):
        await engine.runtime.containers.create(engine.spec("true", files={"x" * 300: b"x"}))
    assert await engine.runtime.containers.list(engine.labels) == ()
    assert volumes(engine) == []


async def test_many_large_files(engine: Engine) -> None:
    files = {f"f{number}": bytes([number]) * 64 * 1024 for number in range(16)}
    output = await engine.run("cat /run/secrets/* | wc -c", files=files)
    assert output.strip() == str(16 * 64 * 1024)


@pytest.mark.parametrize("how", ["cancelled", "cut off"])
async def test_nothing_is_left_of_what_never_got_its_files(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    write = docker.APIClient.put_archive

    def slow(*arguments: Any) -> bool:
        reached.set()
        go_on.wait(PATIENCE)
        if how == "cut off":
            raise requests.exceptions.ConnectionError
        return bool(write(*arguments))

    monkeypatch.setattr(docker.APIClient, "put_archive", slow)
    spec = engine.spec("true", files={"a": b"x"})
    creating = asyncio.create_task(engine.runtime.containers.create(spec))
    assert await asyncio.to_thread(reached.wait, PATIENCE)
    if how == "cancelled":
        creating.cancel()
    go_on.set()
    (ended,) = await asyncio.gather(creating, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError | RuntimeUnavailableError)

    async def gone() -> bool:
        return await engine.runtime.containers.list(engine.labels) == () and not volumes(engine)

    await until(gone, "the container to go, and its volume")
