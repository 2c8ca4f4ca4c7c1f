"""Functions and their revisions."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from skybridge_server.models.destinations import NO_DESTINATIONS, Destinations
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.retries import RetryPolicy

KIB = 1024
MIB = 1024 * KIB


class FunctionState(enum.IntEnum):
    """Whether a function can be executed. Values as in the proto, here and below."""

    UNDEPLOYED = 1
    ACTIVE = 2
    DISABLED = 3


class ContractKind(enum.IntEnum):
    """How input gets in and output comes out."""

    STDIO = 1
    HTTP = 2
    LAMBDA = 3

    @property
    def warm(self) -> bool:
        """Whether a container is kept, and takes one execution after the other."""
        return self is not ContractKind.STDIO

    @property
    def adoptable(self) -> bool:
        """Whether such a container is of use once the server that spoke to it is gone.

        Lambda runtimes end when the connection breaks on which they wait for work.
        """
        return self is ContractKind.HTTP


class InputMode(enum.IntEnum):
    """Where a STDIO function finds its input."""

    STDIN = 1
    ENV = 2


class Network(enum.IntEnum):
    """What a function can reach."""

    NONE = 1
    EGRESS = 2


class Reuse(enum.IntEnum):
    """Whether an instance takes more than one execution."""

    ALLOWED = 1
    NEVER = 2


class Durability(enum.IntEnum):
    """When the answer of an execution on a ready instance may be given."""

    COMMITTED = 1
    DEFERRED = 2


class PullPolicy(enum.IntEnum):
    """When a deployment pulls the image."""

    ALWAYS = 1
    IF_NOT_PRESENT = 2
    NEVER = 3


@dataclass(frozen=True, slots=True)
class Contract:
    """How a function takes its input and gives its output; `health_path` '' asks TCP alone."""

    kind: ContractKind = ContractKind.STDIO
    input: InputMode = InputMode.STDIN
    port: int = 8080
    path: str = "/"
    health_path: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one execution. Sizes in bytes."""

    memory_bytes: int = 128 * MIB
    cpu_millis: int = 1000
    pids: int = 128
    tmp_bytes: int = 64 * MIB
    output_bytes: int = 64 * MIB


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of an execution may take."""

    queue: timedelta = timedelta(minutes=5)
    start: timedelta = timedelta(seconds=60)
    execution: timedelta = timedelta(seconds=60)
    shutdown_grace: timedelta = timedelta(seconds=5)
    idle: timedelta = timedelta(minutes=5)
    """How long an instance is kept without an execution."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Executions that run and wait at once, and on what.

    `max_concurrency` and `max_instances` 0 mean the server's limit,
    `max_executions_per_instance` and `pause_after` 0 mean never.
    """

    max_concurrency: int = 0
    max_queue_depth: int = 1000
    min_instances: int = 0
    max_instances: int = 0
    instance_concurrency: int = 1
    max_executions_per_instance: int = 0
    reuse: Reuse = Reuse.ALLOWED
    pause_after: timedelta = timedelta(0)

    @property
    def executions_per_instance(self) -> int:
        """How many executions an instance takes before it is replaced; 0: no bound."""
        return 1 if self.reuse is Reuse.NEVER else self.max_executions_per_instance


@dataclass(frozen=True, slots=True)
class Isolation:
    """How a function is fenced in: `user` as `uid[:gid]`; `oci_runtime` '' is the engine's."""

    user: str = "65532:65532"
    writable_root: bool = False
    oci_runtime: str = ""


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of a function: how long after its end, and how many; 0 leaves it to others."""

    execution_age: timedelta = timedelta(0)
    executions: int = 0
    revisions: int = 0


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """What a function runs and what it may use, every default filled in."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""
    contract: Contract = Contract()
    resources: Resources = Resources()
    timeouts: Timeouts = Timeouts()
    scaling: Scaling = Scaling()
    network: Network = Network.NONE
    isolation: Isolation = Isolation()
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    runtime: str = ""
    retention: Retention = Retention()
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    destinations: Destinations = NO_DESTINATIONS
    durability: Durability = Durability.COMMITTED
    secrets: dict[str, str] = field(default_factory=dict)
    """By the name of the file that each stands in, their ids."""


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image that an engine got by a pull of ours: under this reference, with this id."""

    runtime: str
    image_id: str
    reference: str


@dataclass(frozen=True, slots=True)
class Function:
    """A mutable specification under a stable name."""

    name: FunctionName
    uid: str
    spec: FunctionSpec
    create_time: datetime
    update_time: datetime
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    state: FunctionState = FunctionState.UNDEPLOYED
    state_message: str = ""
    generation: int = 1
    etag: str = ""
    active_revision: int = 0
    """Number of the revision that executions run; 0 before the first deployment."""


@dataclass(frozen=True, slots=True)
class Revision:
    """An immutable version of a function, its image pinned by content address."""

    name: RevisionName
    spec: FunctionSpec
    image_id: str
    image_digest: str
    platform: str
    image_bytes: int
    generation: int
    create_time: datetime
