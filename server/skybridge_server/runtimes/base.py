"""The protocols of a runtime: what services may ask of a container engine.

A runtime knows containers and images, not functions. Every method may raise
RuntimeUnavailableError when the engine does not answer. Nothing here blocks the event loop, and
every method may be cancelled: what it was doing at the engine is then finished or undone, so that
no container is left that nobody knows.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Protocol, runtime_checkable

from skybridge_server.models.executions import Usage
from skybridge_server.models.functions import Isolation, Network, Resources
from skybridge_server.models.journal import OutputStream


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself."""

    engine: str
    """Name and version, such as `docker 27.3.1`."""
    api_version: str
    platform: str
    """Operating system and architecture, such as `linux/amd64`."""
    cgroup_version: int
    """1, 2, or 0 when unknown."""
    oci_runtimes: tuple[str, ...]
    unsupported_limits: tuple[str, ...]
    """Fields of FunctionSpec that it cannot enforce, such as `resources.pids`."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password, or token, of a registry."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """What a layer of an image does; bytes are 0 when unknown."""

    layer: str
    status: str
    current_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    id: str
    """Content address, `sha256:...`."""
    digest: str
    """`repository@sha256:...`, or '' when it was never in a registry."""
    platform: str
    size_bytes: int
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


class Images(Protocol):
    """The images of an engine."""

    async def get(self, reference: str) -> Image | None:
        """Return the image that a tag, digest or id stands for; None if the engine lacks it."""
        ...

    def pull(self, reference: str, credentials: Credentials | None) -> AsyncIterator[PullProgress]:
        """Pull an image; the pull ends when the iterator does.

        ImageNotFoundError, ImageAccessDeniedError, RegistryUnavailableError, and
        InvalidArgumentError (field `image`) for a malformed reference. Without `credentials`, the
        operator's are used.
        """
        ...


@runtime_checkable
class SupportsImageRemoval(Protocol):
    """Images of an engine that can be removed."""

    async def remove(self, image_id: str, reference: str) -> bool:
        """Undo a pull: take its name away from an image, and with its last name the image.

        False: containers use it. A name that stands for another image by now is left alone, and
        so is an image that has other names.
        """
        ...


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to create. It always runs with all capabilities dropped and no new privileges."""

    name: str
    image_id: str
    command: tuple[str, ...]
    """Replaces the image's ENTRYPOINT and CMD, unless empty."""
    args: tuple[str, ...]
    """Replaces the image's CMD, unless empty."""
    env: Mapping[str, str]
    labels: Mapping[str, str]
    working_dir: str
    resources: Resources
    network: Network
    isolation: Isolation
    stop_grace: timedelta
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """What stands in /run/secrets, by name: for its user to read, and to change only for root."""
    reachable: bool = False
    """Whether the server will connect to its ports, or listen on some: see SupportsPorts."""
    ahead: bool = False
    """Whether it is started later: its creation may take longer where that shortens its start."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended, as the engine tells after its end."""

    code: int
    """Exit code; 128 + n when signal n ended it."""
    oom_killed: bool
    """Whether the engine or the kernel has evidence that a process ran out of memory."""


class ContainerStatus(Enum):
    """How far a container has come."""

    CREATED = auto()
    """It has never run; a start that failed leaves it so."""
    RUNNING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What an engine knows of a container."""

    id: str
    status: ContainerStatus
    start_time: datetime | None = None
    """None: it never started."""
    exit: Exit | None = None
    """None: it has not ended."""
    witnessed: bool | None = None
    """Whether the engine has been there all the time since it started: if it was not, output may
    be missing from the log. None: nobody can tell."""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container that the engine has."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """Something that happened to a container: it ended, or was removed."""

    id: str
    name: str
    labels: Mapping[str, str]
    """Those of the container; an engine may add others."""
    removed: bool


class Recording(Protocol):
    """What a container has written, as its engine keeps it."""

    def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        """Yield it from its beginning, in chunks of 1 byte to 64 KiB.

        RuntimeUnavailableError when the connection breaks before the end.
        """
        ...

    @property
    def whole(self) -> bool:
        """Whether nothing can have been thrown away before what was yielded until now."""
        ...

    @property
    def doubtful(self) -> frozenset[OutputStream]:
        """The streams that may have one more newline at the end of what was yielded."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Attachment(Protocol):
    """The two-way connection to a container's stdin, stdout and stderr."""

    def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        """Yield what the container writes, in chunks of 1 byte to 64 KiB, until it closes both.

        The end of this stream is not the end of the container. A reader that does not ask holds
        back the container after a few MiB, most of them at the engine; nothing is lost.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Write to stdin; waits while the container does not read.

        BrokenPipeError when the container has closed stdin or has ended.
        """
        ...

    async def close_input(self) -> None:
        """Let stdin end."""
        ...

    @property
    def outlives_us(self) -> bool:
        """Whether what was written gets to the container even if this process dies thereafter."""
        ...

    async def close(self) -> None:
        """Let go of the connection; the container is not touched."""
        ...


class Containers(Protocol):
    """The containers of an engine. Methods on one that is gone raise ContainerGoneError."""

    async def create(self, spec: ContainerSpec) -> str:
        """Create a container with stdin open and return its id.

        ImageNotFoundError: the engine no longer has the image. ContainerStartError.
        """
        ...

    async def attach(self, container_id: str) -> Attachment:
        """Connect to a container; before its start, so that no byte is missed."""
        ...

    async def rename(self, container_id: str, name: str) -> None:
        """Give a container that was created another name."""
        ...

    async def start(self, container_id: str) -> None:
        """Start a created container. EntryPointError, ContainerStartError.

        StaleContainerError: it has to be removed, and may start when it is created anew.
        """
        ...

    async def inspect(self, container: str) -> ContainerState:
        """Return what the engine knows of a container, given its id or name."""
        ...

    async def logs(self, container_id: str, *, follow: bool) -> Recording:
        """Return what a container has written and, if it is to `follow`, what it writes.

        An engine that follows may leave out the last of it: read it again after the end.
        """
        ...

    async def wait(self, container_id: str) -> Exit:
        """Wait for the end of a container, and return how it ended.

        RuntimeUnavailableError when the connection breaks while waiting.
        """
        ...

    async def signal(self, container_id: str, signal: str) -> None:
        """Send a signal such as `SIGTERM`, also to a paused one; no error if it has ended."""
        ...

    async def remove(self, container_id: str) -> None:
        """Remove a container, running or not; nothing happens if there is none."""
        ...

    async def list(self, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
        """Return the containers, running or not, that have all these labels.

        Those that the runtime itself runs, and still needs, are left out.
        """
        ...


class Runtime(Protocol):
    """A container engine."""

    @property
    def name(self) -> str:
        """Name, as in FunctionSpec.runtime."""
        ...

    @property
    def images(self) -> Images: ...

    @property
    def containers(self) -> Containers: ...

    async def check(self) -> EngineInfo:
        """Ask the engine for a sign of life, within 1 s; raises RuntimeUnavailableError."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


@runtime_checkable
class SupportsFiles(Protocol):
    """A runtime that keeps files of containers where something may be left of them."""

    async def forget_files(self, labels: Mapping[str, str]) -> None:
        """Delete the files of containers that had all these labels, and were removed by others."""
        ...


@runtime_checkable
class SupportsUsage(Protocol):
    """A runtime that can tell what a container uses."""

    async def usage(self, container_id: str) -> Usage:
        """Return what a container has used so far; unknown values are None. Never raises.

        Cheap enough to be asked right after the last output, before the engine tidies up.
        """
        ...


@runtime_checkable
class SupportsEvents(Protocol):
    """A runtime that tells what happens to containers, whoever has done it."""

    async def container_ends(self, labels: Mapping[str, str]) -> AsyncGenerator[ContainerEnd]:
        """Return the ends of containers that have all these labels, from now on; close it.

        It ends, or raises RuntimeUnavailableError, when the connection does: what happens until
        the next one is told to nobody.
        """
        ...


@runtime_checkable
class SupportsProcesses(Protocol):
    """A runtime that can tell how many processes a container has."""

    async def processes(self, container_id: str) -> int | None:
        """Return how many processes and threads it has; None if nobody can tell. Never raises."""
        ...


WriteBoundary = Callable[[bytes, Collection[OutputStream]], Collection[OutputStream]]
"""Writes a boundary, whole, into some streams, behind all that was written to them so far.

Returns the streams that took it: others have no room now. OSError: it cannot be done.
"""


@runtime_checkable
class SupportsBoundaries(Protocol):
    """A runtime that can write into the output of a container, between what its processes write."""

    async def boundary_writer(self, container_id: str) -> WriteBoundary | None:
        """Return what writes into the output of a container that runs; None: nothing can.

        What is written so comes with the output, in its place, and in the engine's log. Never
        raises.
        """
        ...


class Listener(Protocol):
    """A port that is listened on in the network of a container."""

    def close(self) -> None:
        """Listen no more; connections that were accepted stay."""
        ...


@runtime_checkable
class SupportsPorts(Protocol):
    """A runtime that reaches TCP ports on the loopback of containers, whatever their network is.

    Containers must have been created as `reachable`, and by this runtime: ContainerGoneError for
    others. Sockets are connected, do not block, and delay nothing (TCP_NODELAY where it is TCP);
    who gets one closes it, and a connection that the container loses ends or is reset.
    """

    async def connect(self, container_id: str, port: int) -> socket.socket:
        """Connect to a port, for as long as the caller waits.

        ConnectionRefusedError while nothing listens there, also before the start and after the
        end; other OSErrors of a connect. RuntimeUnavailableError if the way to it is broken.
        """
        ...

    async def listen(
        self, container_id: str, port: int, accepted: Callable[[socket.socket], object]
    ) -> Listener:
        """Listen on a port, also before the start; `accepted` gets each connection.

        Ends with the container, or when the listener is closed. OSError if the port is taken,
        RuntimeUnavailableError as above.
        """
        ...

    async def way_to_ports(self) -> str:
        """Find out how ports are reached, and say it to an operator. SkybridgeError."""
        ...


@runtime_checkable
class SupportsAdoption(Protocol):
    """A runtime whose `reachable` containers outlive the process that made them."""

    async def adopt(self, container_id: str, network: Network) -> None:
        """Take over one that runs, with its ports, as if this process had created it.

        What the earlier process had connected is lost. ContainerGoneError, ContainerStartError: it
        cannot be reached any more.
        """
        ...

    async def leave(self, container_id: str) -> None:
        """Let go of one, so that it runs on once this process has closed the runtime."""
        ...


@runtime_checkable
class SupportsPause(Protocol):
    """A runtime that can freeze containers: they keep their memory and their connections."""

    async def pause(self, container_id: str) -> None:
        """Freeze all processes; nothing happens if they are frozen, or have ended.

        PauseUnsupportedError where the engine cannot; ContainerGoneError. After a
        RuntimeUnavailableError they may be frozen or not, and another try may do it.
        """
        ...

    async def unpause(self, container_id: str) -> None:
        """Let them go on; nothing happens if they do. ContainerGoneError."""
        ...
