"""Stays with a process that runs: keeps its output, stops it when told, sees its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from skybridge_server.errors import (
    OutputLostError,
    RuntimeUnavailableError,
    SkybridgeError,
    StorageError,
)
from skybridge_server.models.executions import Usage
from skybridge_server.models.journal import GapReason, OutputStream
from skybridge_server.runtimes.base import Exit, Runtime, SupportsUsage
from skybridge_server.services import outcome
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.outcome import Outcome
from skybridge_server.services.time_limit import time_left, time_limit

KILL_PATIENCE = 10.0
"""Seconds that a container may take to end after SIGKILL before we stop waiting for it."""
FIRST_USAGE_PAUSE = 0.02
USAGE_INTERVAL = 0.5
KILLED = 128 + 9
SILENCE_PATIENCE = 10.0
"""Seconds without output after the end of a container, until its connection is held for broken."""
REMOVAL_PATIENCE = 0.25
"""Seconds between a kill and the removal of its container, when both come from outside."""


class OutputSource(Protocol):
    """Where what a process writes comes from."""

    def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        """Yield it to its end. OutputLostError, RuntimeUnavailableError."""
        ...


class Supervisor:
    """Stays with one process to its end."""

    def __init__(self, active: ActiveExecution, runtime: Runtime) -> None:
        self._active = active
        self._runtime = runtime
        self._spec = active.revision.spec
        self.usage = Usage()
        """What the process has used, as far as it was seen."""

    async def follow(self, output: OutputSource) -> Outcome:
        """Follow the process to its end. RuntimeUnavailableError: its engine went away."""
        limit = time_limit(self._active)
        left = time_left(self._active).total_seconds()
        timer = asyncio.get_running_loop().call_later(
            left, self._active.stop, limit.reason, limit.message
        )
        observer = asyncio.create_task(self._observe_usage())  # first: some end at once
        watching = asyncio.create_task(self._watch(output))
        stopper = asyncio.create_task(self._terminate_when_told())
        doubter = asyncio.create_task(self._doubt_silence())
        tasks = [observer, watching, stopper, doubter]
        try:
            await asyncio.wait({watching, stopper, doubter}, return_when=asyncio.FIRST_COMPLETED)
            if doubter.done() and not watching.done():
                doubter.result()
            await asyncio.wait({watching}, timeout=KILL_PATIENCE)
            return watching.result() if watching.done() else outcome.of_unkillable()
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- its end --------------------------------------------------------------------------------

    async def _watch(self, output: OutputSource) -> Outcome:
        try:
            async for stream, data in output.output():
                await self._active.journal.add_output(stream, data)
            ended = await self._runtime.containers.wait(self._active.container_id)
            if self._active.stop_reason is None:
                await self._look_for_outside_hands(ended)
        except OutputLostError as error:
            return outcome.of_lost(error.message)
        except StorageError as error:
            return outcome.of_lost_output(error, GapReason.STORAGE_UNAVAILABLE)
        self._active.exited()
        return await self._judge(ended)

    async def _doubt_silence(self) -> None:
        """Raise RuntimeUnavailableError if the engine tells of its end, and its output does not.

        A connection may break without a sign; the engine's log still has what it did not bring.
        """
        active, seen = self._active, None
        while active.ended_container_id != active.container_id:
            await active.container_end.wait()
        while (now := self._written()) != seen:
            seen = now
            await asyncio.sleep(SILENCE_PATIENCE)
        raise RuntimeUnavailableError("its container has ended, and its output has not")

    def _written(self) -> tuple[int, ...]:
        return tuple(map(self._active.journal.written, OutputStream))

    async def _judge(self, ended: Exit) -> Outcome:
        journal = self._active.journal
        try:
            await journal.flush()
        except StorageError as error:
            return replace(outcome.of_lost_output(error), exit_code=ended.code)
        return outcome.of_exit(
            replace(ended, oom_killed=ended.oom_killed or self.usage.oom_killed),
            self._spec,
            written=journal.written(OutputStream.STDOUT),
            log_tail=journal.log_tail,
            truncated=journal.output_truncated(OutputStream.STDOUT),
        )

    async def _observe_usage(self) -> None:
        """Note what the process uses: its last numbers vanish with it, so looks come early, too."""
        if not isinstance(self._runtime, SupportsUsage):
            return
        pause = FIRST_USAGE_PAUSE
        while True:
            self._note_usage(await self._runtime.usage(self._active.container_id))
            await asyncio.sleep(pause)
            pause = min(2 * pause, USAGE_INTERVAL)

    def _note_usage(self, usage: Usage) -> None:
        self.usage = Usage(
            cpu=usage.cpu or self.usage.cpu,
            peak_memory_bytes=usage.peak_memory_bytes or self.usage.peak_memory_bytes,
            oom_killed=usage.oom_killed or self.usage.oom_killed,
        )

    async def _look_for_outside_hands(self, ended: Exit) -> None:
        """Tell a process that was killed from a container that was removed, or an engine stopped.

        All of them kill the process first, so the exit code alone does not tell. Raises
        ContainerGoneError or RuntimeUnavailableError.
        """
        if ended.code != KILLED or ended.oom_killed or self.usage.oom_killed:
            return
        await asyncio.sleep(REMOVAL_PATIENCE)
        await self._runtime.containers.inspect(self._active.container_id)

    # -- stopping it ----------------------------------------------------------------------------

    async def _terminate_when_told(self) -> None:
        await self._active.stopping.wait()
        grace = self._spec.timeouts.shutdown_grace.total_seconds()
        if grace > 0:
            await self._signal("SIGTERM")
            await asyncio.sleep(grace)
        await self._signal("SIGKILL")

    async def _signal(self, name: str) -> None:
        with contextlib.suppress(SkybridgeError):
            await self._runtime.containers.signal(self._active.container_id, name)
