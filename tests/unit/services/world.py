"""All services over a store and an engine in memory, and the rules that every journal keeps."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from prometheus_client import CollectorRegistry

from skybridge_server.app import Services, wire
from skybridge_server.models.executions import TRANSITIONS, Execution, ExecutionState
from skybridge_server.models.functions import Function, FunctionSpec
from skybridge_server.models.journal import (
    Event,
    EventBody,
    Gap,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.clock import SYSTEM_CLOCK, Clock
from skybridge_server.services.engines import Engines
from skybridge_server.services.journal import Journal
from skybridge_server.services.limits import Limits
from skybridge_server.services.maker import Maker
from skybridge_server.services.pool.pool import Launcher
from skybridge_server.services.requests import ExecutionRequest, FunctionDraft, RequestKey
from skybridge_server.services.secrets import SecretService
from tests.fakes.repositories import FakeRepositories
from tests.fakes.runtime import IMAGE, FakeRuntime, Gate, Program
from tests.limits import LIMITS

HELLO = FunctionName("default", "hello")
BUSYBOX = "docker.io/library/busybox:latest"
SERVER_ID = "server-1"
EPOCH = datetime(2026, 1, 31, 12, tzinfo=UTC)
"""What the clock of schedules shows when virtual time begins."""
STORE_METHODS = ("add", "append", "events", "get", "get_input", "list")


class VirtualClock(Clock):
    """The virtual time as time of day; it can be set."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time()) + self.ahead


def maker_of(engines: Engines) -> Maker:
    """Return what creates containers that have no secrets."""
    return Maker(engines, SecretService(FakeRepositories(), SYSTEM_CLOCK))


@dataclass
class World:
    """What a test has in its hands. `disk` holds or fails the methods of the execution store."""

    repositories: FakeRepositories
    runtime: FakeRuntime
    engines: Engines
    services: Services
    metrics: CollectorRegistry
    clock: VirtualClock
    disk: Gate = field(default_factory=Gate)

    async def create(self, name: FunctionName = HELLO, **spec: Any) -> Function:
        draft = FunctionDraft(FunctionSpec(image="busybox", **spec))
        return await self.services.functions.create(name, draft, key=None, validate_only=False)

    async def deploy(self, name: FunctionName = HELLO) -> None:
        steps = self.services.deployments.deploy(name, etag="", credentials=None, key=None)
        _ = [step async for step in steps]

    async def deployed(
        self, name: FunctionName = HELLO, *, program: Program | None = None, **spec: Any
    ) -> FunctionName:
        """Create and deploy a function; its containers run `program`."""
        if program is not None:
            self.runtime.containers.program = program
        await self.create(name, **spec)
        await self.deploy(name)
        return name

    async def start(self, name: FunctionName = HELLO, **fields: Any) -> ExecutionName:
        execution = await self.services.executions.start(ExecutionRequest(name, **fields))
        return execution.name

    async def run(self, name: FunctionName = HELLO, **fields: Any) -> Execution:
        return await self.ended(await self.start(name, **fields))

    async def execute(
        self, name: FunctionName = HELLO, *, time_left: timedelta | None = None, **fields: Any
    ) -> Execution:
        request = ExecutionRequest(name, **fields)
        execution, _ = await self.services.executions.execute(request, time_left=time_left)
        return execution

    async def ended(self, name: ExecutionName) -> Execution:
        """Wait for the end of an execution, and look whether its journal keeps the rules."""
        execution = await self.services.executions.wait(name, timedelta(hours=10))
        check_journal(self.journal(name), execution)
        return execution

    async def reaches(self, name: ExecutionName, state: ExecutionState) -> ActiveExecution:
        """Wait until an execution that runs is in a state."""
        active = self.services.registry.get(name)
        assert active is not None
        await until(lambda: active.journal.execution.state is state)
        return active

    def active(self, name: ExecutionName) -> ActiveExecution:
        active = self.services.registry.get(name)
        assert active is not None
        return active

    def journal(self, name: ExecutionName) -> list[Event]:
        return self.repositories.executions.journals[name]

    async def idle(self) -> None:
        """Wait until everything that an ended execution leaves to do is done."""
        await until(lambda: not self.services.registry._tasks)

    def journals_in_memory(self) -> list[Journal]:
        """Return the journals that something still holds; each active execution holds its own."""
        gc.collect()
        held = [each for each in gc.get_objects() if isinstance(each, Journal)]
        return [each for each in held if each._repository is self.repositories.executions]

    async def restart(self, launcher: Launcher | None = None) -> World:
        """Return a new process over the same store and engine; the old one just dies."""
        await self.services.backlog.close()
        for task in self.services.registry._tasks.values():
            task.cancel()
        for active in [*self.services.registry]:
            active.container_id = ""  # who dies removes nothing
        self.services.ahead._shelves.clear()
        return await _open(self.repositories, self.runtime, LIMITS, self.disk, launcher)


def sample(world: World, name: str, **labels: str) -> float | None:
    """Return what Prometheus is told; None: nothing was counted yet."""
    return world.metrics.get_sample_value(f"skybridge_{name}", labels)


def key(method: str = "StartExecution", request_id: str = "1", asked: str = "") -> RequestKey:
    return RequestKey(method, request_id, asked)


@asynccontextmanager
async def world_of(launcher: Launcher | None = None, **limits: Any) -> AsyncGenerator[World, None]:
    """Make a world under these limits; at the end nothing may be left of it."""
    repositories, disk = FakeRepositories(), Gate()
    for method in STORE_METHODS:
        put_behind(disk, repositories.executions, method)
    runtime = FakeRuntime("docker")
    runtime.images.present[BUSYBOX] = IMAGE
    world = await _open(repositories, runtime, replace(LIMITS, **limits), disk, launcher)
    try:
        yield world
    finally:
        await world.services.registry.close(0)
        await world.services.instances.close()
        await world.services.deployments.close()
        await world.engines.close()


async def _open(
    repositories: FakeRepositories,
    runtime: FakeRuntime,
    limits: Limits,
    disk: Gate,
    launcher: Launcher | None = None,
) -> World:
    engines = Engines({"docker": runtime}, "docker")
    await engines.open()
    metrics = CollectorRegistry()
    clock = VirtualClock()
    services = wire(repositories, engines, limits, metrics, SERVER_ID, clock, launcher)
    return World(repositories, runtime, engines, services, metrics, clock, disk)


def put_behind(gate: Gate, store: object, method: str) -> None:
    inner: Callable[..., Awaitable[Any]] = getattr(store, method)

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        await gate.pass_through(method)
        return await inner(*args, **kwargs)

    setattr(store, method, guarded)


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; an hour of virtual time is for ever."""
    async with asyncio.timeout(3600):
        while not condition():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Let everything run that does not wait for time to pass."""
    for _ in range(100):
        await asyncio.sleep(0)


def check_journal(events: list[Event], execution: Execution) -> None:
    """Fail unless a journal that has ended keeps every rule."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    bodies = [event.body for event in events]
    assert [isinstance(body, Result) for body in bodies] == [False] * (len(bodies) - 1) + [True]
    assert execution.last_sequence == len(events)
    states = [body.state for body in bodies if isinstance(body, StateChange)] + [execution.state]
    assert states[0] is ExecutionState.QUEUED
    for before, after in pairwise(states):
        assert after in TRANSITIONS[before], f"{before.name} became {after.name}"
    assert execution.state.final
    assert (execution.failure is None) == (execution.state is ExecutionState.SUCCEEDED)
    for attempt in _attempts_of(events):
        for stream in OutputStream:
            _check_stream(
                [b for b in attempt if isinstance(b, Output | Gap) and b.stream is stream]
            )


def _attempts_of(events: list[Event]) -> list[list[EventBody]]:
    """Return the bodies of each attempt, which all begin in QUEUED."""
    attempts: list[list[EventBody]] = []
    for event in events:
        match event.body:
            case StateChange(ExecutionState.QUEUED, number):
                attempts.append([])
                assert number == len(attempts)
        attempts[-1].append(event.body)
    return attempts


def _check_stream(pieces: list[Output | Gap]) -> None:
    """Output is without holes, and at most one gap stands at its end."""
    position = 0
    for piece in pieces:
        assert piece.offset == position
        if isinstance(piece, Gap):
            assert piece is pieces[-1]
        else:
            assert piece.data
            position += len(piece.data)


def output_of(events: list[Event], stream: OutputStream = OutputStream.STDOUT) -> bytes:
    bodies = [event.body for event in events]
    return b"".join(b.data for b in bodies if isinstance(b, Output) and b.stream is stream)


def gaps_of(events: list[Event]) -> list[Gap]:
    return [event.body for event in events if isinstance(event.body, Gap)]


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)
