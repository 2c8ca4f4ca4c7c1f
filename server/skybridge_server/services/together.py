"""Many executions for one caller.

What idle instances can do is begun without a task for each: on a busy server tasks, and waking them
one by one, would be a good part of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

from skybridge_server.services.begun import Batch, Begun, Finished
from skybridge_server.services.executions import Ended, ExecutionService
from skybridge_server.services.requests import ExecutionRequest

Outcome: TypeAlias = Ended | BaseException
"""How an execution ended, or the error that kept it from that."""

Keep = Callable[[Ended], Ended]
"""Takes an execution as it ends, and returns what is to be kept of it until all have ended."""


class Member:
    """One of them. For the event loop alone."""

    def __init__(
        self,
        executions: ExecutionService,
        request: ExecutionRequest,
        tell: Callable[[Outcome], None],
        *,
        time_left: timedelta | None,
    ) -> None:
        """Begin at once, or in a task where that takes more; `tell` hears of the end, but later."""
        self.begun: Begun | None = None
        self.task: asyncio.Task[Ended] | None = None
        self._executions = executions
        self._tell = tell
        try:
            self.begun = executions.begin(request, time_left=time_left)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            asyncio.get_running_loop().call_soon(tell, error)
            return
        if self.begun is None:
            self._wait_for(executions.execute(request, time_left=time_left))
        else:
            self.begun.end.add_done_callback(self._ended)

    def leave(self) -> None:
        """Stop it, unless it is over; nobody hears of the end of what has begun at once."""
        if self.task is not None:
            self.task.cancel()
        if self.begun is not None:
            self._executions.leave(self.begun)

    def _ended(self, end: asyncio.Future[Finished | None]) -> None:
        if end.cancelled():
            return
        begun, error = self.begun, end.exception()
        if error is not None:
            self._tell(error)
        elif (finished := end.result()) is not None:
            self._tell((finished.execution, finished.output))
        elif begun is not None and not begun.over:  # else it was left meanwhile
            self._wait_for(self._executions.go_on(begun))

    def _wait_for(self, work: Coroutine[Any, Any, Ended]) -> None:
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Ended]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._tell(error or task.result())


async def execute_all(
    executions: ExecutionService,
    requests: Sequence[ExecutionRequest],
    keep: Keep,
    *,
    time_left: timedelta | None,
) -> list[Outcome]:
    """Return how each ended, or the error, in the order of the requests.

    Cancelling this coroutine cancels the executions.
    """
    outcomes: dict[int, Outcome] = {}
    all_ended = asyncio.Event()

    def ended(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome if isinstance(outcome, BaseException) else keep(outcome)
        if len(outcomes) == len(requests):
            all_ended.set()

    members = [
        Member(executions, request, partial(ended, number), time_left=time_left)
        for number, request in enumerate(requests)
    ]
    at_once = [member.begun for member in members if member.begun is not None]
    batch = Batch(len(at_once))
    for begun in at_once:
        begun.batch = batch
    try:
        if requests:
            await all_ended.wait()
    except asyncio.CancelledError:
        for member in members:
            member.leave()
        raise
    return [outcomes[number] for number in range(len(requests))]
