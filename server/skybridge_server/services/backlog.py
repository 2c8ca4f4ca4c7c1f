"""The backlog: executions that wait for a place in the store, and nothing of them in memory.

Slots count them and say when too few of a function have tickets; the next ones are then claimed in
one write, and launched. Whoever else wants one of them, such as a cancel, has it launched before
its turn. What comes due goes the same way. See docs/decisions/0016-the-backlog.md.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from skybridge_server.errors import NotFoundError, StorageError
from skybridge_server.models.executions import Execution, Queued
from skybridge_server.models.functions import FunctionSpec, Revision
from skybridge_server.models.names import ExecutionName, RevisionName
from skybridge_server.repositories.base import WaitingRepository
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.deadlines import Deadlines
from skybridge_server.services.registry import Registry
from skybridge_server.services.revisions import KnownRevisions
from skybridge_server.services.slots import Slots

BATCH = 100
"""Executions that are claimed in one write."""
RETRY = 1.0
"""Seconds before the store is asked again after it failed."""
HOLDING = timedelta(hours=1)
"""What the lease of one lasts that was claimed and waits; who starts it takes another."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """An execution that is no longer in the store's queue, and not launched yet."""

    execution: Execution
    in_turn: bool = False
    """Whether it is the first of those in the store, and counts as one of them until launched."""
    deadline: float | None = None
    """Until when it waits for a place, by the clock of the loop; None: as if it came now."""


Launch = Callable[[Claimed], Awaitable[bool]]
"""Lets an execution go on; returns False if it was lost instead. StorageError: try again."""


class Backlog:
    """The executions of one server that wait in the store. For the event loop alone."""

    def __init__(
        self,
        waiting: WaitingRepository,
        revisions: KnownRevisions,
        slots: Slots,
        registry: Registry,
        on_delay: Callable[[], None],
    ) -> None:
        """`on_delay`: called when an execution waits for its time."""
        self.revisions = revisions
        self._waiting = waiting
        self._on_delay = on_delay
        self._slots = slots
        self._registry = registry
        self._deadlines = Deadlines()
        self._launch: Launch
        self._low: OrderedDict[str, None] = OrderedDict()
        """Functions of which some are to be claimed."""
        self._late: deque[Queued] = deque()
        """Those that have waited for too long."""
        self._entering: deque[Queued] = deque()
        """Those that are in the queue, and not counted yet."""
        self._claimed: deque[Claimed] = deque()
        """Those that are not launched yet."""
        self._claiming = asyncio.Lock()
        """Held while some are neither in the store nor launched."""
        self._loading: asyncio.Task[None] | None = None
        self._admitting: set[asyncio.Task[Any]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        slots.on_low = self._load_some_of

    def open(self, launch: Launch) -> None:
        """Have what is claimed from now on launched."""
        self._launch = launch

    async def close(self) -> None:
        """Claim nothing any more: what waits in the store stays there."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    # -- who comes ------------------------------------------------------------------------------

    def line_up(self, function_uid: str, revision: Revision) -> int | None:
        """Return the position of an execution that is to wait in the store; None: it need not.

        ResourceExhaustedError. `stored` or `withdraw` must follow.
        """
        number = self._slots.line_up(function_uid, revision.spec.scaling)
        if number is not None:
            self._expect(Queued(function_uid, revision.name, 1, number), revision.spec)
        return number

    def stored(self, function_uid: str) -> None:
        """Hear that an execution is in the store: it may be wanted by now."""
        self._slots.look(function_uid)

    def put_off(self) -> None:
        """Hear that an execution is in the store that waits for its time first."""
        self._on_delay()

    def withdraw(self, function_uid: str) -> None:
        """Hear that an execution could not be stored."""
        self._slots.withdraw(function_uid)

    async def restore(self) -> int:
        """Count what an earlier process left in the store, and return how many. StorageError."""
        self._entering.extend(await self._waiting.queued())
        last = max((place.last for place in self._entering), default=0)
        self._slots.numbers(last + 1)
        number = sum(place.count for place in self._entering)
        await self._count_entering()
        return number

    async def queue_due(self, now: datetime, limit: int) -> int:
        """Let some whose time has come wait for a place; return how many. StorageError."""
        async with self._claiming:
            first = self._slots.numbers(length=limit)
            queued = await self._waiting.queue_due(now, limit, first)
            self._entering.extend(queued)
            await self._count_entering()
        return len(queued)

    async def _count_entering(self) -> None:
        while self._entering:
            place = self._entering[0]
            spec = await self._spec(place.function_uid, place.revision)
            self._entering.popleft()
            self._expect(place, spec)
            self._slots.store(place.function_uid, spec.scaling, place.last, place.count)
            self._slots.look(place.function_uid)

    async def _spec(self, function_uid: str, name: RevisionName) -> FunctionSpec:
        try:
            return (await self.revisions.get(function_uid, name)).spec
        except NotFoundError:
            return FunctionSpec(image="")  # its executions are lost as soon as they are claimed

    def _expect(self, place: Queued, spec: FunctionSpec) -> None:
        loop = asyncio.get_running_loop()
        self._deadlines.add(place, loop.time(), spec.timeouts.queue)
        self._set_alarm(loop.time() + spec.timeouts.queue.total_seconds())

    # -- who is wanted --------------------------------------------------------------------------

    async def admit(self, name: ExecutionName) -> ActiveExecution | None:
        """Launch an execution before its turn or time; None if it does not wait."""
        await self._to_the_end(self._admit(name))
        return self._registry.get(name)

    async def admit_some(self, function_uid: str) -> None:
        """Launch executions of a function before their turns or times, up to BATCH of them."""
        await self._to_the_end(self._admit_some(function_uid))

    async def idle(self) -> None:
        """Wait until all that were wanted are launched."""
        while self._loading is not None:
            await asyncio.wait({self._loading})

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it whatever becomes of the caller: what is claimed waits for us alone."""
        task = asyncio.create_task(work)
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)
        await asyncio.shield(task)

    async def _admit(self, name: ExecutionName) -> None:
        async with self._claiming:
            claimed = await self._waiting.claim(name, *self._holder())
            if claimed is not None:
                await self._launch_out_of_turn([claimed])

    async def _admit_some(self, function_uid: str) -> None:
        async with self._claiming:
            claimed = await self._waiting.claim_any(function_uid, BATCH, *self._holder())
            await self._launch_out_of_turn(claimed)

    async def _launch_out_of_turn(
        self, claimed: Sequence[Execution], deadline: float | None = None
    ) -> None:
        for execution in claimed:
            if execution.position is not None:
                self._slots.withdraw(execution.function_uid)
            self._claimed.append(Claimed(execution, deadline=deadline))
        await self._launch_claimed()

    # -- who is next ----------------------------------------------------------------------------

    def _load_some_of(self, function_uid: str) -> None:
        self._low[function_uid] = None
        self._load_soon()

    def _load_soon(self) -> None:
        if self._loading is None and not self._closed:
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            while self._claimed or self._late or self._low:
                try:
                    async with self._claiming:
                        await self._load_next()
                except StorageError as error:
                    log.warning("backlog waits for the store", detail=error.message)
                    await asyncio.sleep(RETRY)
        except Exception:
            log.exception("backlog broke")
        finally:
            self._loading = None

    async def _load_next(self) -> None:
        if self._claimed:
            await self._launch_claimed()
        elif self._late:
            await self._load_late(self._late[0])
        else:
            await self._load_first(next(iter(self._low)))

    async def _load_late(self, place: Queued) -> None:
        late = await self._waiting.claim_late(place, BATCH, *self._holder())
        if len(late) < BATCH:
            self._late.popleft()
        await self._launch_out_of_turn(late, deadline=asyncio.get_running_loop().time())

    async def _load_first(self, function_uid: str) -> None:
        del self._low[function_uid]  # first: it may be asked for again while the store is busy
        wanted = min(self._slots.wanted(function_uid), BATCH)
        if not wanted:
            return
        try:
            claimed = await self._waiting.claim_first(function_uid, wanted, *self._holder())
        except StorageError:
            self._low[function_uid] = None
            raise
        # If there are fewer, the others are being stored, and come to be looked at then.
        for execution in claimed:
            deadline = self._deadlines.take(_place(execution))
            self._claimed.append(Claimed(execution, in_turn=True, deadline=deadline))
        await self._launch_claimed()

    def _holder(self) -> tuple[str, datetime]:
        return self._registry.server_id, datetime.now(UTC) + HOLDING

    async def _launch_claimed(self) -> None:
        """Launch what is claimed; what the store fails to tell now is launched the next time."""
        while self._claimed:
            claimed = self._claimed[0]
            try:
                launched = await self._launch(claimed)
            except StorageError:
                self._load_soon()
                raise
            self._claimed.popleft()
            if claimed.in_turn and not launched:
                self._slots.withdraw(claimed.execution.function_uid)

    # -- who has waited for too long ------------------------------------------------------------

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None and self._alarm.when() <= when:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(when, self._look_for_late)

    def _look_for_late(self) -> None:
        """Have those launched whose time is up: as soon as they are in memory, they end."""
        self._alarm = None
        self._late.extend(self._deadlines.passed(asyncio.get_running_loop().time()))
        if self._late:
            self._load_soon()
        following = self._deadlines.next()
        if following is not None and not self._closed:
            self._set_alarm(following)


def _place(execution: Execution) -> Queued:
    name = RevisionName(execution.function, execution.revision)
    return Queued(execution.function_uid, name, 1, execution.position or 0)
