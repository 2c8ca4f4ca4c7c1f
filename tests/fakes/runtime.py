"""A runtime in memory, whose containers are coroutines written by the test."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from skybridge_server.errors import (
    ContainerGoneError,
    EntryPointError,
    FieldViolation,
    ImageNotFoundError,
    InvalidArgumentError,
    RuntimeUnavailableError,
)
from skybridge_server.models.executions import Usage
from skybridge_server.models.functions import Network
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import (
    Attachment,
    ContainerEnd,
    ContainerRecord,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    Credentials,
    EngineInfo,
    Exit,
    Image,
    Listener,
    PullProgress,
    Recording,
    WriteBoundary,
)
from tests.fakes.network import FakeNetwork

CHUNK_BYTES = 64 * 1024
HELD_BACK_BYTES = 256 * 1024
IMAGE = Image(
    id="sha256:" + "1" * 64,
    digest="registry.test/busybox@sha256:" + "2" * 64,
    platform="linux/amd64",
    size_bytes=2_000_000,
    entrypoint=(),
    command=("sh",),
)


class OutOfMemoryError(Exception):
    """Raised by a program that the kernel kills for its appetite."""


class FakePipe:
    """Chunks on their way from a writer to a reader, held back while too many wait."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[OutputStream, bytes]] = deque()
        self._changed = asyncio.Condition()
        self._closed = False
        self.broken = False

    async def write(self, data: bytes, stream: OutputStream = OutputStream.STDOUT) -> None:
        """Write; waits while the reader does not ask, BrokenPipeError once there is none."""
        for start in range(0, len(data), CHUNK_BYTES):
            async with self._changed:
                await self._changed.wait_for(lambda: self.broken or not self._full())
                if self.broken:
                    raise BrokenPipeError("nobody reads any more")
                self._chunks.append((stream, data[start : start + CHUNK_BYTES]))
                self._changed.notify_all()

    async def read(self) -> tuple[OutputStream, bytes] | None:
        """Return the next chunk, None at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._chunks or self._closed)
            self._changed.notify_all()
            return self._chunks.popleft() if self._chunks else None

    async def close(self) -> None:
        """Nothing more is written."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def break_(self) -> None:
        """Nothing more is read."""
        async with self._changed:
            self.broken = True
            self._changed.notify_all()

    def _full(self) -> bool:
        return sum(len(data) for _, data in self._chunks) >= HELD_BACK_BYTES


class FakeProcess:
    """What a program sees: its streams, network, signals, and its container's specification."""

    def __init__(self, spec: ContainerSpec) -> None:
        self.spec = spec
        self.network = FakeNetwork()
        self.input = FakePipe()
        self.output = FakePipe()
        self.recorded: list[tuple[OutputStream, bytes]] = []
        self.attached = False
        self._signals: dict[str, asyncio.Event] = {}

    async def read(self) -> bytes:
        """Read from stdin; b'' at its end."""
        chunk = await self.input.read()
        return chunk[1] if chunk else b""

    async def write(self, data: bytes, stream: OutputStream = OutputStream.STDOUT) -> None:
        """Write; waits while an attached reader does not ask."""
        if data:
            self.recorded.append((stream, data))
        if self.attached:
            await self.output.write(data, stream)

    async def signalled(self, name: str) -> None:
        """Wait for a signal; one that nobody waits for is ignored, as by process 1 of Linux."""
        await self._signals.setdefault(name, asyncio.Event()).wait()

    def signal(self, name: str) -> None:
        if name in self._signals:
            self._signals[name].set()

    async def end(self) -> None:
        self.network.end()
        await self.output.close()
        await self.input.break_()


Program = Callable[[FakeProcess], Awaitable[int]]
"""Runs as the container's process and returns its exit code."""


def says(stdout: bytes = b"", stderr: bytes = b"", code: int = 0) -> Program:
    """Return a program that writes this and exits."""

    async def run(process: FakeProcess) -> int:
        await process.write(stdout)
        await process.write(stderr, OutputStream.STDERR)
        return code

    return run


async def echo(process: FakeProcess) -> int:
    """Copy stdin to stdout until it ends."""
    while data := await process.read():
        await process.write(data)
    return 0


async def sleep(_process: FakeProcess) -> int:
    """Run until it is killed."""
    await asyncio.Event().wait()
    return 0


@dataclass
class FakeContainer:
    """A container; `program` None is an entry point that the image lacks."""

    id: str
    spec: ContainerSpec
    program: Program | None
    process: FakeProcess
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit: Exit | None = None
    start_time: datetime | None = None
    paused: bool = False
    on_end: Callable[[], None] = lambda: None

    @property
    def running(self) -> bool:
        return self.task is not None and self.exit is None

    async def run(self, program: Program) -> None:
        try:
            self.exit = Exit(await program(self.process), oom_killed=False)
        except OutOfMemoryError:
            self.exit = Exit(137, oom_killed=True)
        except asyncio.CancelledError:
            self.exit = Exit(137, oom_killed=False)
        finally:
            if self.exit is None:
                self.exit = Exit(1, oom_killed=False)
            await self.process.end()
            self.on_end()
            self.ended.set()

    def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()


class FakeRecording:
    """What a fake process has written, and writes until it ends."""

    whole = True
    doubtful: frozenset[OutputStream] = frozenset()

    def __init__(self, container: FakeContainer, *, follow: bool) -> None:
        self._container = container
        self._follow = follow

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        recorded, position = self._container.process.recorded, 0
        while True:
            while position < len(recorded):
                stream, data = recorded[position]
                position += 1
                for start in range(0, len(data), CHUNK_BYTES):
                    yield stream, data[start : start + CHUNK_BYTES]
            if not self._follow or not self._container.running:
                return
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Nothing is held."""


class FakeAttachment:
    """The two-way connection to a fake process."""

    def __init__(self, process: FakeProcess) -> None:
        process.attached = True
        self._process = process

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        while chunk := await self._process.output.read():
            yield chunk

    async def write(self, data: bytes) -> None:
        if self._process.input.broken:
            raise BrokenPipeError("the container reads no more input")
        await self._process.input.write(data)

    async def close_input(self) -> None:
        await self._process.input.close()

    @property
    def outlives_us(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing is held."""


class FakeImages:
    """`present` are at the engine, `registry` can be pulled."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.present: dict[str, Image] = {"busybox": IMAGE}
        self.registry: dict[str, Image] = {}
        self.pulled_with: list[Credentials | None] = []
        self.in_use: set[str] = set()
        """Ids of images that containers of others use."""

    async def get(self, reference: str) -> Image | None:
        await self._gate.pass_through("get_image")
        by_id = {image.id: image for image in self.present.values()}
        return self.present.get(reference) or by_id.get(reference)

    async def pull(
        self, reference: str, credentials: Credentials | None
    ) -> AsyncIterator[PullProgress]:
        await self._gate.pass_through("pull")
        if reference != reference.strip().lower():
            raise InvalidArgumentError(
                FieldViolation("image", f"'{reference}' is not an image reference")
            )
        if reference not in self.registry:
            raise ImageNotFoundError(f"no registry has image '{reference}'")
        self.pulled_with.append(credentials)
        image = self.registry[reference]
        yield PullProgress("layer", "Downloading", image.size_bytes // 2, image.size_bytes)
        yield PullProgress("layer", "Pull complete", 0, 0)
        self.present[reference] = image

    async def remove(self, image_id: str, reference: str) -> bool:
        await self._gate.pass_through("remove_image")
        if image_id in self.in_use:
            return False
        if reference in self.present and self.present[reference].id == image_id:
            del self.present[reference]
        return True


class FakeContainers:
    """Runs `program` in every container that is created from now on."""

    def __init__(self, gate: Gate, images: FakeImages) -> None:
        self._gate = gate
        self._images = images
        self._listeners: set[asyncio.Queue[ContainerEnd | None]] = set()
        self.program: Program | None = says()
        self.created: list[ContainerSpec] = []
        self.signals: list[tuple[str, str]] = []
        self.present: dict[str, FakeContainer] = {}
        self.left: set[str] = set()
        self.witnessed: bool | None = True

    async def create(self, spec: ContainerSpec) -> str:
        await self._gate.pass_through("create")
        if spec.image_id not in {image.id for image in self._images.present.values()}:
            raise ImageNotFoundError(f"no image {spec.image_id}: deploy the function again")
        container = FakeContainer(uuid.uuid4().hex, spec, self.program, FakeProcess(spec))
        self.created.append(spec)
        self.present[container.id] = container
        return container.id

    async def attach(self, container_id: str) -> Attachment:
        await self._gate.pass_through("attach")
        return FakeAttachment(self.get(container_id).process)

    async def rename(self, container_id: str, name: str) -> None:
        await self._gate.pass_through("rename")
        container = self.get(container_id)
        container.spec = replace(container.spec, name=name)

    async def start(self, container_id: str) -> None:
        await self._gate.pass_through("start")
        container = self.get(container_id)
        if container.program is None:
            raise EntryPointError("the image has no such command: no such file or directory")
        container.start_time = datetime.now(UTC)
        container.on_end = partial(self._tell, container, removed=False)
        container.task = asyncio.create_task(container.run(container.program))
        await asyncio.sleep(0)  # a task that is cancelled before its first step runs nothing at all

    async def inspect(self, container: str) -> ContainerState:
        await self._gate.pass_through("inspect")
        named = [each for each in self.present.values() if container in {each.id, each.spec.name}]
        if not named:
            raise ContainerGoneError(container)
        found = named[0]
        if found.start_time is None:
            return ContainerState(found.id, ContainerStatus.CREATED)
        status = ContainerStatus.ENDED if found.exit else ContainerStatus.RUNNING
        return ContainerState(found.id, status, found.start_time, found.exit, self.witnessed)

    async def logs(self, container_id: str, *, follow: bool) -> Recording:
        await self._gate.pass_through("logs")
        return FakeRecording(self.get(container_id), follow=follow)

    async def wait(self, container_id: str) -> Exit:
        await self._gate.pass_through("wait")
        container = self.get(container_id)
        await container.ended.wait()
        self.get(container_id)
        assert container.exit
        return container.exit

    async def signal(self, container_id: str, signal: str) -> None:
        await self._gate.pass_through("signal")
        container = self.get(container_id)
        self.signals.append((container_id, signal))
        if signal == "SIGKILL":
            container.kill()
        else:
            container.process.signal(signal)

    async def remove(self, container_id: str) -> None:
        await self._gate.pass_through("remove")
        container = self.present.pop(container_id, None)
        if container and container.running:
            container.kill()
            await container.ended.wait()
        if container:
            self._tell(container, removed=True)

    async def list(self, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
        await self._gate.pass_through("list")
        return tuple(
            ContainerRecord(each.id, each.spec.name, each.spec.labels, each.running)
            for each in self.present.values()
            if labels.items() <= each.spec.labels.items()
        )

    async def pause(self, container_id: str) -> None:
        await self._gate.pass_through("pause")
        container = self.get(container_id)
        container.paused = container.running

    async def unpause(self, container_id: str) -> None:
        await self._gate.pass_through("unpause")
        self.get(container_id).paused = False

    async def ends(self, labels: Mapping[str, str]) -> AsyncGenerator[ContainerEnd]:
        await self._gate.pass_through("container_ends")
        queue: asyncio.Queue[ContainerEnd | None] = asyncio.Queue()
        self._listeners.add(queue)
        return self._listen(queue, labels)

    async def _listen(
        self, queue: asyncio.Queue[ContainerEnd | None], labels: Mapping[str, str]
    ) -> AsyncGenerator[ContainerEnd]:
        try:
            while end := await queue.get():
                if labels.items() <= end.labels.items():
                    yield end
        finally:
            self._listeners.discard(queue)

    def fall_silent(self) -> None:
        """Cut off all who listen; they may listen again."""
        for queue in self._listeners:
            queue.put_nowait(None)

    def _tell(self, container: FakeContainer, *, removed: bool) -> None:
        for queue in self._listeners:
            spec = container.spec
            queue.put_nowait(ContainerEnd(container.id, spec.name, spec.labels, removed))

    def network(self, container_id: str) -> FakeNetwork:
        container = self.get(container_id)
        if not container.spec.reachable or container_id in self.left:
            raise ContainerGoneError(container_id)
        return container.process.network

    def get(self, container_id: str) -> FakeContainer:
        if container_id not in self.present:
            raise ContainerGoneError(container_id)
        return self.present[container_id]


class FakeRuntime:
    """An engine in memory. Give `containers.program`, hold or fail its methods by name."""

    def __init__(self, name: str = "fake") -> None:
        self._name = name
        self.gate = Gate()
        self._images = FakeImages(self.gate)
        self._containers = FakeContainers(self.gate, self._images)
        self.used = Usage()
        self.looked_for_files: list[Mapping[str, str]] = []
        self.process_count: int | None = 1
        self.info = EngineInfo("fake 1.0", "1.0", "linux/amd64", 2, ("runc",), ())

    @property
    def name(self) -> str:
        return self._name

    @property
    def images(self) -> FakeImages:
        return self._images

    @property
    def containers(self) -> FakeContainers:
        return self._containers

    async def check(self) -> EngineInfo:
        await self.gate.pass_through("check")
        return self.info

    async def forget_files(self, labels: Mapping[str, str]) -> None:
        await self.gate.pass_through("forget_files")
        self.looked_for_files.append(labels)

    async def usage(self, container_id: str) -> Usage:
        return self.used

    async def container_ends(self, labels: Mapping[str, str]) -> AsyncGenerator[ContainerEnd]:
        return await self._containers.ends(labels)

    async def processes(self, container_id: str) -> int | None:
        container = self._containers.present.get(container_id)
        return self.process_count if container is not None and container.running else None

    async def boundary_writer(self, container_id: str) -> WriteBoundary | None:
        container = self._containers.present.get(container_id)
        if container is None or not container.running:
            return None
        writing: set[asyncio.Task[None]] = set()

        def write(boundary: bytes, streams: Collection[OutputStream]) -> Collection[OutputStream]:
            for stream in streams:
                task = asyncio.create_task(container.process.write(boundary, stream))
                writing.add(task)
                task.add_done_callback(writing.discard)
            return streams

        return write

    async def connect(self, container_id: str, port: int) -> socket.socket:
        await self.gate.pass_through("connect")
        return self._containers.network(container_id).connect(port)

    async def listen(
        self, container_id: str, port: int, accepted: Callable[[socket.socket], object]
    ) -> Listener:
        await self.gate.pass_through("listen")
        return self._containers.network(container_id).listen(port, accepted)

    async def way_to_ports(self) -> str:
        return "by pairs of sockets"

    async def adopt(self, container_id: str, network: Network) -> None:
        await self.gate.pass_through("adopt")
        container = self._containers.get(container_id)
        if not container.running or container.spec.network is not network:
            raise ContainerGoneError(container_id)
        self._containers.left.discard(container_id)

    async def leave(self, container_id: str) -> None:
        self._containers.left.add(container_id)

    async def pause(self, container_id: str) -> None:
        await self._containers.pause(container_id)

    async def unpause(self, container_id: str) -> None:
        await self._containers.unpause(container_id)

    async def close(self) -> None:
        """End every program."""
        for container in self._containers.present.values():
            container.kill()


class Gate:
    """What every method goes through: it may be held, fail, or find the engine away.

    Methods are named `get_image`, `pull`, `create`, `attach`, `rename`, `start`, `inspect`, `logs`,
    `wait`, `signal`, `remove`, `list`, `check`, `container_ends`, `connect`, `listen`, `adopt`,
    `pause`, `unpause` and `forget_files`.
    """

    def __init__(self) -> None:
        self.away = False
        self.failures: dict[str, Exception] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.entered: dict[str, asyncio.Event] = {}

    def hold(self, method: str) -> asyncio.Event:
        """Let calls of a method wait for the event that is returned."""
        return self.held.setdefault(method, asyncio.Event())

    def seen(self, method: str) -> asyncio.Event:
        """Return an event that is set once a method is called."""
        return self.entered.setdefault(method, asyncio.Event())

    async def pass_through(self, method: str) -> None:
        self.seen(method).set()
        if method in self.held:
            await self.held[method].wait()
        if self.away:
            raise RuntimeUnavailableError("the container engine does not answer: it is away")
        if method in self.failures:
            raise self.failures[method]
