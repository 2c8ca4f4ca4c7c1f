"""The executions that have not ended, each with the task that runs it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain

import structlog

from skybridge_server.errors import LeaseLostError, StorageError
from skybridge_server.models.destinations import NO_DESTINATIONS
from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.runtimes.base import ContainerEnd, ContainerRecord
from skybridge_server.services import labels
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.launches import Launches
from skybridge_server.services.retries import is_dead_letter
from skybridge_server.services.runner import Runner
from skybridge_server.services.runners import Runners
from skybridge_server.services.supervisor import KILL_PATIENCE
from skybridge_server.services.telemetry import Telemetry

STOP_PATIENCE = 5.0
"""Seconds for what is left to do at a stop of the server once all containers have ended."""

log = structlog.get_logger(__name__)


class Registry:
    """Runs executions, and knows them from before they are stored until their end is."""

    def __init__(
        self,
        runners: Runners,
        telemetry: Telemetry,
        on_delay: Callable[[], None],
        on_delivery: Callable[[], None],
    ) -> None:
        """`on_delay`: called when an execution that failed waits for its next attempt.

        `on_delivery`: called when somebody may have to be told of an end.
        """
        self._runners = runners
        self._telemetry = telemetry
        self.server_id = runners.server_id
        self._on_delay = on_delay
        self._on_delivery = on_delivery
        self._active: dict[ExecutionName, ActiveExecution] = {}
        self._tasks: dict[ExecutionName, asyncio.Task[None]] = {}
        self._owned: dict[str, ExecutionName] = {}
        """By the names of their containers."""
        self._listeners: set[Launches] = set()
        self._arrivals: defaultdict[ExecutionName, set[asyncio.Event]] = defaultdict(set)
        self.hanging_up = False
        """Whether what waits in the store is left to the next start."""
        self._closing = False

    def __iter__(self) -> Iterator[ActiveExecution]:
        """Yield those that were launched and have not ended."""
        return iter([active for name, active in self._active.items() if name in self._tasks])

    def get(self, name: ExecutionName) -> ActiveExecution | None:
        """Return what stands in memory of an execution; None once it has ended."""
        return self._active.get(name)

    def owns(self, container: ContainerRecord | ContainerEnd) -> bool:
        """Tell whether an execution may still need a container."""
        # One that was made ahead may have been seen under the name that it had before.
        return container.name in self._owned or any(
            active.container_id == container.id for active in self
        )

    def container_ended(self, end: ContainerEnd) -> None:
        """Hear from an engine that a container has ended."""
        name = self._owned.get(end.name)
        active = None if name is None else self._active.get(name)
        if active is not None:
            active.container_ended(end.id)

    @contextmanager
    def launches(self, function: FunctionName) -> Iterator[Launches]:
        """Collect the executions of a function that run, and those launched from now on."""
        launches = Launches(function, self)
        self._listeners.add(launches)
        try:
            yield launches
        finally:
            self._listeners.discard(launches)

    @contextmanager
    def arrival(self, name: ExecutionName) -> Iterator[asyncio.Event]:
        """Give an event that is set when an execution is launched from now on.

        It is set, too, once that will not be any more: see `hanging_up`.
        """
        arrived = asyncio.Event()
        if self.hanging_up:
            arrived.set()
        self._arrivals[name].add(arrived)
        try:
            yield arrived
        finally:
            self._arrivals[name].discard(arrived)
            if not self._arrivals[name]:
                del self._arrivals[name]

    # -- running --------------------------------------------------------------------------------

    def expect(self, active: ActiveExecution) -> None:
        """Know an execution that is being stored: a repeat of its request may see it there."""
        self._active[active.name] = active

    def forget(self, active: ActiveExecution) -> None:
        """Forget an execution that has ended, or that was not stored after all."""
        del self._active[active.name]
        active.exited()
        active.over.set()

    @property
    def launching(self) -> bool:
        """Whether `launch` runs what it is given."""
        return not self._closing

    @property
    def followed(self) -> bool:
        """Whether somebody follows what executions of a function write, as they are launched."""
        return bool(self._listeners)

    def launch(self, active: ActiveExecution) -> None:
        """Run an execution; see `launching`.

        A server that stops leaves what is stored to its next start.
        """
        if self._closing:
            return
        if self.hanging_up:
            active.disconnect_grace = None
        runner = self._runners.of(active)
        self._active[active.name] = active
        container = labels.container_name(active.journal.execution)
        if not active.revision.spec.contract.kind.warm:
            self._owned[container] = active.name
        self._tasks[active.name] = asyncio.create_task(self._run(active, runner, container))
        for listener in self._listeners:
            listener.add(active)
        for arrived in self._arrivals.get(active.name, ()):
            arrived.set()

    async def _run(self, active: ActiveExecution, runner: Runner, container: str) -> None:
        try:
            await runner.run()
            self._note_end(active)
        except LeaseLostError as error:
            active.handed_over = True
            log.warning("execution is in other hands", detail=error.message)
        except Exception:
            log.exception("execution not settled", execution=str(active.name))
        finally:
            self.forget(active)
            try:
                if not active.handed_over:
                    await runner.clean_up()
            finally:
                if self._tasks[active.name] is asyncio.current_task():  # else the next attempt's
                    del self._tasks[active.name]
                if not active.handed_over:  # else its container stays
                    self._owned.pop(container, None)

    def _note_end(self, active: ActiveExecution) -> None:
        execution = active.journal.execution
        if not execution.state.final:
            self._telemetry.retried(execution)
            self._on_delay()
            return
        self._telemetry.ended(execution)
        if is_dead_letter(execution, active.revision.spec):
            self._telemetry.died(execution)
        if active.revision.spec.destinations != NO_DESTINATIONS:
            self._on_delivery()

    # -- stopping -------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Let executions outlive their callers: from now on it is the server that leaves them."""
        self.hanging_up = True
        for active in self._active.values():
            active.disconnect_grace = None
        for arrived in chain.from_iterable(self._arrivals.values()):
            arrived.set()

    async def close(self, grace: float, policy: ShutdownPolicy = ShutdownPolicy.CANCEL) -> None:
        """Let running executions end within `grace` seconds, then stop them or hand them over.

        Those that only wait stay in the store, for the next start of the server; so do those that
        could not be ended or stored in time, to be settled then. What cannot be handed over is
        stopped: its input comes from here.
        """
        self._closing = True
        await self._cancel([self._tasks[a.name] for a in self if not a.journal.started])
        await self._wait(grace)
        if policy is ShutdownPolicy.HANDOVER:
            await self._hand_over()
        for active in self:
            active.stop(FailureReason.CANCELLED, "the server was stopped")
        longest = max((a.revision.spec.timeouts.shutdown_grace for a in self), default=timedelta())
        await self._wait(longest.total_seconds() + KILL_PATIENCE + STOP_PATIENCE)
        await self._cancel([*self._tasks.values()])

    async def _hand_over(self) -> None:
        """Let go of what runs, as it runs."""
        starting = [a for a in self if a.journal.execution.state is ExecutionState.STARTING]
        await asyncio.gather(*(active.attached.wait(STOP_PATIENCE) for active in starting))
        running = [active for active in self if active.can_be_handed_over]
        for active in running:
            active.handed_over = True
        await self._cancel([self._tasks[active.name] for active in running])
        for active in running:
            try:
                await active.journal.give_back()
            except StorageError as error:
                # The lease stays with this server, whose next process takes it all the same.
                log.warning("lease not given back", detail=error.message)
        if running:
            log.info("executions handed over", count=len(running))

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=seconds)

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
