"""The executions that have not ended, each with the task that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from skybridge_server.models.executions import FailureReason
from skybridge_server.models.names import ExecutionName
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.engines import Engines
from skybridge_server.services.runner import Runner
from skybridge_server.services.telemetry import Telemetry


class Registry:
    """Runs executions, and knows them until their end is on disk."""

    def __init__(self, engines: Engines, telemetry: Telemetry, server_id: str) -> None:
        self._engines = engines
        self._telemetry = telemetry
        self._server_id = server_id
        self._active: dict[ExecutionName, ActiveExecution] = {}
        self._tasks: dict[ExecutionName, asyncio.Task[None]] = {}
        self._owned: set[str] = set()
        self._listeners: set[asyncio.Queue[ActiveExecution]] = set()

    def __iter__(self) -> Iterator[ActiveExecution]:
        return iter(tuple(self._active.values()))

    def get(self, name: ExecutionName) -> ActiveExecution | None:
        """Return what stands in memory of an execution; None once it has ended."""
        return self._active.get(name)

    def launch(self, active: ActiveExecution) -> None:
        """Run an execution that is stored."""
        self._active[active.name] = active
        self._owned.add(str(active.name))
        self._tasks[active.name] = asyncio.create_task(self._run(active))
        for listener in self._listeners:
            listener.put_nowait(active)

    @contextmanager
    def launches(self) -> Iterator[asyncio.Queue[ActiveExecution]]:
        """Give a queue that gets every execution that is launched from now on."""
        queue: asyncio.Queue[ActiveExecution] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def owns(self, execution: str) -> bool:
        """Tell whether the container of an execution, by its name, may still be needed."""
        return execution in self._owned

    async def _run(self, active: ActiveExecution) -> None:
        runtime = self._engines.get(active.revision.spec.runtime)
        runner = Runner(active, runtime, self._server_id)
        try:
            await runner.run()
            self._telemetry.ended(active.journal.execution)
        finally:
            del self._active[active.name]
            active.over.set()
            await runner.clean_up()
            del self._tasks[active.name]
            self._owned.discard(str(active.name))

    async def close(self, grace: float) -> None:
        """Let running executions end within `grace` seconds, then stop them.

        Those that only wait stay in the store, for the next start of the server.
        """
        waiting = [self._tasks[a.name] for a in self if not a.journal.started]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if self._tasks:
            await asyncio.wait(set(self._tasks.values()), timeout=grace)
        for active in self:
            active.stop(FailureReason.CANCELLED, "the server was stopped")
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
