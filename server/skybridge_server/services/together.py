"""Many executions for one caller, all at once.

What idle instances can do is begun without a task for each: on a busy server tasks, and waking them
one by one, would be a good part of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial

from skybridge_server.services.begun import Batch, Begun
from skybridge_server.services.executions import Ended, ExecutionService
from skybridge_server.services.requests import ExecutionRequest

Keep = Callable[[Ended], Ended]
"""Takes an execution as it ends, and returns what is to be kept of it until all have ended."""


async def execute_all(
    executions: ExecutionService,
    requests: Iterable[ExecutionRequest],
    keep: Keep,
    *,
    time_left: timedelta | None,
) -> list[Ended | BaseException]:
    """Return how each ended, or the error, in the order of the requests.

    Cancelling this coroutine cancels the executions.
    """
    many = [_Each(executions, request, keep, time_left) for request in requests]
    at_once = [each.begun for each in many if each.begun is not None]
    batch = Batch(len(at_once))
    for begun in at_once:
        begun.batch = batch
    try:
        for each in many:
            await each.finish()
        await asyncio.gather(*(each.task for each in many if each.task), return_exceptions=True)
    except asyncio.CancelledError:
        for each in many:
            each.leave()
        raise
    return [each.outcome() for each in many]


class _Each:
    """One of them."""

    def __init__(
        self,
        executions: ExecutionService,
        request: ExecutionRequest,
        keep: Keep,
        time_left: timedelta | None,
    ) -> None:
        """Begin at once, or in a task where that takes more."""
        self.task: asyncio.Task[Ended] | None = None
        self._executions = executions
        self._keep = keep
        self.begun: Begun | None = None
        self._outcome: Ended | BaseException | None = None
        try:
            self.begun = executions.begin(request, time_left=time_left)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            self._outcome = error
            return
        if self.begun is None:
            self._wait_for(partial(executions.execute, request, time_left=time_left))

    async def finish(self) -> None:
        """Wait a moment for the end, if it has begun at once."""
        if self.begun is None:
            return
        try:
            finished = await self.begun.end
        except Exception as error:  # noqa: BLE001 - it is the outcome
            self._outcome = error
            return
        if finished is None:
            self._wait_for(partial(self._executions.go_on, self.begun))
        else:
            self._outcome = self._keep((finished.execution, finished.output))

    def outcome(self) -> Ended | BaseException:
        """Return what came of it, once all is over."""
        if self.task is not None:
            error = asyncio.CancelledError() if self.task.cancelled() else self.task.exception()
            return error or self.task.result()
        assert self._outcome is not None  # noqa: S101 - it has been waited for
        return self._outcome

    def leave(self) -> None:
        """Stop it, unless it is over."""
        if self.task is not None:
            self.task.cancel()
        if self.begun is not None:
            self._executions.leave(self.begun)

    def _wait_for(self, work: Callable[[], Awaitable[Ended]]) -> None:
        async def wait() -> Ended:
            return self._keep(await work())

        self.task = asyncio.create_task(wait())
