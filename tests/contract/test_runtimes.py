"""What every runtime promises, see runtimes/base.py: one suite over the fake and a real engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    EntryPointError,
    ImageNotFoundError,
    InvalidArgumentError,
    RuntimeUnavailableError,
)
from skybridge_server.models.executions import Usage
from skybridge_server.models.functions import Isolation, Network, Resources
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    Exit,
    Recording,
    Runtime,
    SupportsBoundaries,
    SupportsEvents,
    SupportsProcesses,
    SupportsUsage,
)
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.fakes.runtime import (
    FakeProcess,
    FakeRuntime,
    OutOfMemoryError,
    Program,
    echo,
    says,
    sleep,
)
from tests.support.sandboxes import SandboxedRuntime
from tests.support.waiting import PATIENCE

BUSYBOX = "skybridge-local/busybox"
STDOUT, STDERR = OutputStream.STDOUT, OutputStream.STDERR
BYTES = bytes(range(256))


@dataclass(frozen=True)
class Case:
    """One program, told twice: for a shell, and for the fake."""

    shell: str
    fake: Program | None


def _ends_when_told(name: str, code: int) -> Program:
    async def run(process: FakeProcess) -> int:
        await process.write(b"ready")
        await process.signalled(name)
        return code

    return run


async def _count_input(process: FakeProcess) -> int:
    total = 0
    while data := await process.read():
        total += len(data)
    await process.write(f"{total}\n".encode())
    return 0


async def _flood(process: FakeProcess) -> int:
    for _ in range(16):
        await process.write(bytes(1 << 20))
    return 0


async def _eat(_process: FakeProcess) -> int:
    raise OutOfMemoryError


ECHO = Case("cat", echo)
SLEEP = Case("sleep 1000", sleep)
GREETING = Case("printf out; printf err >&2; exit 3", says(b"out", b"err", 3))
QUIET = Case("true", says())
COUNT = Case("wc -c", _count_input)
FLOOD = Case("dd if=/dev/zero bs=1M count=16 2>/dev/null", _flood)
MISSING = Case("", None)
TRAPPED = Case(
    "trap 'exit 42' TERM; printf ready; while :; do sleep 0.01; done",
    _ends_when_told("SIGTERM", 42),
)
HUNGRY = Case("tail /dev/zero", _eat)


@dataclass
class Bench:
    """A runtime, and what is needed to run cases in it."""

    runtime: Runtime
    image_id: str
    away: Callable[[], Runtime]
    fake: FakeRuntime | None = None
    labels: dict[str, str] = field(default_factory=lambda: {"skybridge.test": uuid.uuid4().hex})
    attachments: list[Attachment] = field(default_factory=list)

    def spec(self, case: Case) -> ContainerSpec:
        if self.fake:
            self.fake.containers.program = case.fake
        return ContainerSpec(
            name=f"skybridge-test-{uuid.uuid4().hex}",
            image_id=self.image_id,
            command=("sh", "-c") if case.fake else ("/no/such/command",),
            args=(case.shell,),
            env={},
            labels=self.labels,
            working_dir="",
            resources=Resources(),
            network=Network.NONE,
            isolation=Isolation(),
            stop_grace=timedelta(seconds=1),
        )

    async def create(self, case: Case) -> str:
        return await self.runtime.containers.create(self.spec(case))

    async def attach(self, container_id: str) -> Attachment:
        self.attachments.append(await self.runtime.containers.attach(container_id))
        return self.attachments[-1]

    async def start(self, case: Case) -> tuple[str, Attachment]:
        """Create, attach and start."""
        container_id = await self.create(case)
        attachment = await self.attach(container_id)
        await self.runtime.containers.start(container_id)
        return container_id, attachment

    async def run(self, case: Case, data: bytes = b"") -> tuple[bytes, bytes, Exit]:
        """Run to the end, with this input."""
        container_id, attachment = await self.start(case)
        feeding = asyncio.create_task(_feed(attachment, data))
        stdout, stderr = await read_all(attachment)
        await feeding
        ended = await self.runtime.containers.wait(container_id)
        return stdout, stderr, ended


async def _feed(attachment: Attachment, data: bytes) -> None:
    for start in range(0, len(data), 100_000):
        await attachment.write(data[start : start + 100_000])
    await attachment.close_input()


async def read_all(attachment: Attachment | Recording) -> tuple[bytes, bytes]:
    """Return all of stdout and stderr."""
    read = {STDOUT: bytearray(), STDERR: bytearray()}
    async for stream, data in attachment.output():
        assert 1 <= len(data) <= 64 * 1024
        read[stream] += data
    return bytes(read[STDOUT]), bytes(read[STDERR])


async def read_until(attachment: Attachment, expected: bytes) -> None:
    """Read stdout until it has brought this."""
    read = b""
    async for _, data in attachment.output():
        read += data
        if expected in read:
            return
    pytest.fail(f"only got {read!r}")


REAL = [pytest.param(name, marks=pytest.mark.docker) for name in ("docker", "docker-sandboxed")]


@pytest.fixture(params=["fake", *REAL])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made = await _make(request.param)
    image = await made.runtime.images.get("busybox" if made.fake else BUSYBOX)
    assert image, "run scripts/images"
    made.image_id = image.id
    async with asyncio.timeout(PATIENCE):
        yield made
        for attachment in made.attachments:
            await attachment.close()
        for record in await made.runtime.containers.list(made.labels):
            await made.runtime.containers.remove(record.id)
        assert await made.runtime.containers.list(made.labels) == ()
    await made.runtime.close()


async def _make(name: str) -> Bench:
    if name == "fake":
        fake = FakeRuntime()
        return Bench(fake, "", _fake_away, fake=fake)
    if name == "docker":
        return Bench(DockerRuntime(), "", _docker_away)
    sandboxed = SandboxedRuntime(maximum=1)
    await sandboxed.warm_up()
    return Bench(sandboxed, "", _docker_away)


def _fake_away() -> Runtime:
    runtime = FakeRuntime()
    runtime.gate.away = True
    return runtime


def _docker_away() -> Runtime:
    return DockerRuntime(environment={"DOCKER_HOST": "unix:///nonexistent/docker.sock"})


# -- input and output -----------------------------------------------------------------------------


async def test_output_comes_whole_and_apart(bench: Bench) -> None:
    assert await bench.run(GREETING) == (b"out", b"err", Exit(3, oom_killed=False))


async def test_bytes_go_through_unchanged(bench: Bench) -> None:
    data = BYTES * 8192
    stdout, stderr, ended = await bench.run(ECHO, data)
    assert stdout == data
    assert (stderr, ended.code) == (b"", 0)


async def test_stdin_ends(bench: Bench) -> None:
    assert await bench.run(COUNT, b"12345") == (b"5\n", b"", Exit(0, oom_killed=False))


async def test_no_output_at_all(bench: Bench) -> None:
    assert await bench.run(QUIET) == (b"", b"", Exit(0, oom_killed=False))


async def test_a_reader_who_comes_late_misses_nothing(bench: Bench) -> None:
    container_id, attachment = await bench.start(FLOOD)
    records = await bench.runtime.containers.list(bench.labels)
    assert [record.running for record in records] == [True]  # it is held back
    stdout, _ = await read_all(attachment)
    assert stdout == bytes(16 << 20)
    assert (await bench.runtime.containers.wait(container_id)).code == 0


async def test_writing_to_a_container_that_has_ended(bench: Bench) -> None:
    container_id, attachment = await bench.start(QUIET)
    await read_all(attachment)
    await bench.runtime.containers.wait(container_id)
    with pytest.raises(BrokenPipeError):
        await attachment.write(b"late")
    await attachment.close_input()


async def test_a_writer_who_waits_is_woken_by_the_end(bench: Bench) -> None:
    container_id, attachment = await bench.start(SLEEP)
    writing = asyncio.create_task(_feed(attachment, bytes(16 << 20)))
    await asyncio.sleep(0)
    assert not writing.done()
    await bench.runtime.containers.signal(container_id, "SIGKILL")
    with pytest.raises(BrokenPipeError):
        await writing


async def test_closing_an_attachment_leaves_the_container_alone(bench: Bench) -> None:
    container_id, attachment = await bench.start(SLEEP)
    await attachment.close()
    records = await bench.runtime.containers.list(bench.labels)
    assert [(record.id, record.running) for record in records] == [(container_id, True)]


# -- what an engine tells -------------------------------------------------------------------------


async def test_ends_and_removals_are_told_whoever_has_done_it(bench: Bench) -> None:
    runtime, containers = bench.runtime, bench.runtime.containers
    assert isinstance(runtime, SupportsEvents)
    stranger = replace(bench.spec(QUIET), labels={"skybridge.test": uuid.uuid4().hex})
    async with aclosing(await runtime.container_ends(bench.labels)) as ends:
        await containers.remove(await containers.create(stranger))
        quick, _ = await bench.start(QUIET)
        told = await anext(ends)
        assert (told.id, told.removed) == (quick, False)
        assert told.name.startswith("skybridge-test-")
        assert bench.labels.items() <= told.labels.items()
        patient, _ = await bench.start(SLEEP)
        for container_id in (quick, patient):
            await containers.remove(container_id)
        ended = [await anext(ends) for _ in range(3)]
        assert [(each.id, each.removed) for each in ended] == [
            (quick, True),
            (patient, False),
            (patient, True),
        ]


# -- names ----------------------------------------------------------------------------------------


async def test_a_container_that_is_renamed_is_known_by_its_new_name_alone(bench: Bench) -> None:
    runtime, containers = bench.runtime, bench.runtime.containers
    assert isinstance(runtime, SupportsEvents)
    spec = replace(bench.spec(GREETING), ahead=True)
    container_id = await containers.create(spec)
    name = f"{spec.name}-renamed"
    async with aclosing(await runtime.container_ends(bench.labels)) as ends:
        await containers.rename(container_id, name)
        assert (await containers.inspect(name)).id == container_id
        with pytest.raises(ContainerGoneError):
            await containers.inspect(spec.name)
        assert [each.name for each in await containers.list(bench.labels)] == [name]
        attachment = await bench.attach(container_id)
        await containers.start(container_id)
        assert await read_all(attachment) == (b"out", b"err")
        assert (await anext(ends)).name == name


async def test_what_is_gone_is_not_renamed(bench: Bench) -> None:
    container_id = await bench.create(QUIET)
    await bench.runtime.containers.remove(container_id)
    with pytest.raises(ContainerGoneError):
        await bench.runtime.containers.rename(container_id, f"skybridge-test-{uuid.uuid4().hex}")


# -- how containers end ---------------------------------------------------------------------------


async def read_log(bench: Bench, container_id: str, *, follow: bool = False) -> tuple[bytes, bytes]:
    """Return what an engine keeps of the output."""
    recording = await bench.runtime.containers.logs(container_id, follow=follow)
    try:
        read = await read_all(recording)
        assert recording.whole
        assert follow or not recording.doubtful
        return read
    finally:
        await recording.close()


async def test_what_was_written_can_be_read_again(bench: Bench) -> None:
    container_id, attachment = await bench.start(ECHO)
    data = b"no end of line\n\n\n" + BYTES * 100 + b"x" * 40_000 + b"\n" + b"last"
    await _feed(attachment, data)
    followed, _ = await read_log(bench, container_id, follow=True)
    assert followed in {data, data[:-4], data[:-5]}  # the last piece may be left out
    await bench.runtime.containers.wait(container_id)
    assert await read_log(bench, container_id) == (data, b"")


async def test_both_streams_can_be_read_again(bench: Bench) -> None:
    container_id, _ = await bench.start(GREETING)
    await bench.runtime.containers.wait(container_id)
    assert await read_log(bench, container_id) == (b"out", b"err")


async def test_a_reader_of_the_log_may_leave(bench: Bench) -> None:
    container_id, _ = await bench.start(TRAPPED)
    recording = await bench.runtime.containers.logs(container_id, follow=True)
    await recording.close()
    state = await bench.runtime.containers.inspect(container_id)
    assert state.status is ContainerStatus.RUNNING


async def test_inspect_tells_how_far_it_has_come(bench: Bench) -> None:
    containers, spec = bench.runtime.containers, bench.spec(GREETING)
    container_id = await containers.create(spec)
    assert await containers.inspect(spec.name) == ContainerState(
        container_id, ContainerStatus.CREATED
    )
    await bench.attach(container_id)
    await containers.start(container_id)
    ended = await containers.wait(container_id)
    state = await containers.inspect(container_id)
    assert (state.id, state.status, state.exit) == (container_id, ContainerStatus.ENDED, ended)
    assert state.start_time is not None
    assert state.start_time.tzinfo is not None
    assert state.witnessed is True


async def test_inspect_tells_what_runs(bench: Bench) -> None:
    container_id, _ = await bench.start(SLEEP)
    state = await bench.runtime.containers.inspect(container_id)
    assert (state.status, state.exit) == (ContainerStatus.RUNNING, None)


async def test_what_never_started_has_not_run(bench: Bench) -> None:
    container_id = await bench.create(MISSING)
    with pytest.raises(EntryPointError):
        await bench.runtime.containers.start(container_id)
    state = await bench.runtime.containers.inspect(container_id)
    assert state.status is ContainerStatus.CREATED


async def test_a_signal_reaches_the_process(bench: Bench) -> None:
    container_id, attachment = await bench.start(TRAPPED)
    await read_until(attachment, b"ready")
    await bench.runtime.containers.signal(container_id, "SIGTERM")
    assert (await bench.runtime.containers.wait(container_id)).code == 42


async def test_a_kill_is_no_proof_of_memory_running_out(bench: Bench) -> None:
    container_id, _ = await bench.start(SLEEP)
    await bench.runtime.containers.signal(container_id, "SIGKILL")
    assert await bench.runtime.containers.wait(container_id) == Exit(137, oom_killed=False)
    await bench.runtime.containers.signal(container_id, "SIGTERM")  # too late is no error


async def test_memory_running_out(bench: Bench) -> None:
    _, _, ended = await bench.run(HUNGRY)
    assert ended == Exit(137, oom_killed=True)


async def test_many_wait_for_one_end(bench: Bench) -> None:
    container_id, attachment = await bench.start(ECHO)
    waits = [asyncio.create_task(bench.runtime.containers.wait(container_id)) for _ in range(40)]
    waits[0].cancel()
    await attachment.close_input()
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1:] == [Exit(0, oom_killed=False)] * 39
    assert (await bench.runtime.containers.wait(container_id)).code == 0


async def test_removed_while_waited_for(bench: Bench) -> None:
    container_id, attachment = await bench.start(SLEEP)
    waiting = asyncio.create_task(bench.runtime.containers.wait(container_id))
    await asyncio.sleep(0)
    await bench.runtime.containers.remove(container_id)
    with pytest.raises(ContainerGoneError):
        await waiting
    assert await read_all(attachment) == (b"", b"")


# -- what cannot be created or started ------------------------------------------------------------


async def test_entry_point_missing(bench: Bench) -> None:
    container_id = await bench.create(MISSING)
    await bench.attach(container_id)
    with pytest.raises(EntryPointError, match="no such file"):
        await bench.runtime.containers.start(container_id)


async def test_image_gone(bench: Bench) -> None:
    spec = replace(bench.spec(QUIET), image_id="sha256:" + "0" * 64)
    with pytest.raises(ImageNotFoundError, match="deploy the function again"):
        await bench.runtime.containers.create(spec)


async def test_a_container_that_is_gone(bench: Bench) -> None:
    containers = bench.runtime.containers
    container_id = await bench.create(QUIET)
    await containers.remove(container_id)
    await containers.remove(container_id)  # twice is no error
    with pytest.raises(ContainerGoneError):
        await bench.attach(container_id)
    with pytest.raises(ContainerGoneError):
        await containers.start(container_id)
    with pytest.raises(ContainerGoneError):
        await containers.wait(container_id)
    with pytest.raises(ContainerGoneError):
        await containers.signal(container_id, "SIGTERM")


async def test_two_remove_one_container(bench: Bench) -> None:
    container_id, _ = await bench.start(SLEEP)
    await asyncio.gather(*(bench.runtime.containers.remove(container_id) for _ in range(4)))
    assert await bench.runtime.containers.list(bench.labels) == ()


async def test_a_cancelled_creation_leaves_nothing(bench: Bench) -> None:
    spec = bench.spec(QUIET)
    if bench.fake:
        bench.fake.gate.hold("create")
    creating = asyncio.create_task(bench.runtime.containers.create(spec))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    if bench.fake:
        bench.fake.gate.held.clear()
    container_id = await _create_once_the_name_is_free(bench, spec)
    records = await bench.runtime.containers.list(bench.labels)
    assert [record.id for record in records] == [container_id]


async def _create_once_the_name_is_free(bench: Bench, spec: ContainerSpec) -> str:
    while True:
        try:
            return await bench.runtime.containers.create(spec)
        except ContainerStartError:
            await asyncio.sleep(0.01)


# -- lists, images, the engine itself -------------------------------------------------------------


async def test_list_by_labels(bench: Bench) -> None:
    containers = bench.runtime.containers
    mine = {**bench.labels, "skybridge.test.more": "1"}
    spec = replace(bench.spec(SLEEP), labels=mine)
    container_id = await containers.create(spec)
    assert await containers.list({**bench.labels, "skybridge.test.more": "2"}) == ()
    (record,) = await containers.list(mine)
    assert (record.id, record.name, record.running) == (container_id, spec.name, False)
    assert mine.items() <= record.labels.items()
    await containers.start(container_id)
    (record,) = await containers.list(bench.labels)
    assert record.running


async def test_images(bench: Bench) -> None:
    assert await bench.runtime.images.get("skybridge-local/no-such-image") is None
    image = await bench.runtime.images.get(bench.image_id)
    assert image
    assert image.id == bench.image_id
    assert image.platform.startswith("linux/")
    assert image.size_bytes > 0
    assert image.command == ("sh",)


async def test_pulling_what_is_no_reference(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        _ = [step async for step in bench.runtime.images.pull("No Image!", None)]
    assert [violation.field for violation in caught.value.violations] == ["image"]


async def test_the_engine_tells_of_itself(bench: Bench) -> None:
    info = await bench.runtime.check()
    assert bench.runtime.name in info.engine
    assert info.platform.startswith("linux/")
    assert "runc" in info.oci_runtimes


async def test_usage_never_raises(bench: Bench) -> None:
    assert isinstance(bench.runtime, SupportsUsage)
    assert await bench.runtime.usage("0" * 64) == Usage()


async def test_processes_are_counted_while_there_are_any(bench: Bench) -> None:
    assert isinstance(bench.runtime, SupportsProcesses)
    assert await bench.runtime.processes("0" * 64) is None
    container_id, _ = await bench.start(SLEEP)
    count = await bench.runtime.processes(container_id)
    assert count is not None
    assert 1 <= count <= 2
    await bench.runtime.containers.remove(container_id)
    assert await bench.runtime.processes(container_id) is None


async def test_a_boundary_comes_with_the_output(bench: Bench) -> None:
    assert isinstance(bench.runtime, SupportsBoundaries)
    assert await bench.runtime.boundary_writer("0" * 64) is None
    container_id, attachment = await bench.start(SLEEP)
    write = await bench.runtime.boundary_writer(container_id)
    assert write is not None
    for stream in OutputStream:
        assert [*write(stream.name.encode(), {stream})] == [stream]
    came: dict[OutputStream, bytes] = dict.fromkeys(OutputStream, b"")
    async for stream, data in attachment.output():
        came[stream] += data
        if came == {stream: stream.name.encode() for stream in OutputStream}:
            break
    await bench.runtime.containers.remove(container_id)
    assert await bench.runtime.boundary_writer(container_id) is None


async def test_an_engine_that_does_not_answer(bench: Bench) -> None:
    runtime = bench.away()
    containers = runtime.containers
    for call in (
        runtime.check(),
        runtime.images.get("busybox"),
        anext(runtime.images.pull("busybox", None)),
        containers.create(bench.spec(QUIET)),
        containers.attach("1"),
        containers.start("1"),
        containers.wait("1"),
        containers.signal("1", "SIGTERM"),
        containers.remove("1"),
        containers.list({}),
    ):
        with pytest.raises(RuntimeUnavailableError, match="does not answer"):
            await call
    await runtime.close()
