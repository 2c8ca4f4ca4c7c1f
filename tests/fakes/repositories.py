"""Repositories in memory: they keep every promise of the protocols but durability."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    LeaseLostError,
    NotFoundError,
)
from skybridge_server.models.aftermath import NOTHING, Aftermath
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.destinations import Delivery
from skybridge_server.models.executions import (
    Attempt,
    Execution,
    ExecutionState,
    Lease,
    Queued,
)
from skybridge_server.models.functions import Function, FunctionState, PulledImage, Revision
from skybridge_server.models.journal import Event, Output, OutputStream, Result, StateChange
from skybridge_server.models.metrics import FunctionMetrics, LatencySummary
from skybridge_server.models.names import (
    ExecutionName,
    FunctionName,
    RevisionName,
    ScheduleName,
    SecretName,
)
from skybridge_server.models.paging import (
    Cursor,
    DeadLetterQuery,
    ExecutionQuery,
    FunctionQuery,
    LabelFilter,
    Page,
    PageRequest,
    ScheduleQuery,
)
from skybridge_server.models.requests import Request
from skybridge_server.models.schedules import Schedule
from skybridge_server.models.secrets import Secret
from skybridge_server.models.tokens import Token, TokenName

T = TypeVar("T")

MAX_EVENTS = 1000


class FakeRepositories:
    """All repositories over the same dictionaries."""

    def __init__(self) -> None:
        self.requests = FakeRequests()
        self.executions = FakeExecutions(self.requests)
        self.waiting = FakeWaiting(self.executions)
        self.dead_letters = FakeDeadLetters(self.executions)
        self.deliveries = FakeDeliveries(self.executions)
        self.revisions = FakeRevisions(self.requests)
        self.functions = FakeFunctions(self.requests, self.revisions, self.executions)
        self.revisions.functions = self.functions
        self.executions.functions = self.functions
        self.images = FakeImages(self.revisions)
        self.tokens = FakeTokens()
        self.secrets = FakeSecrets(self.requests)
        self.schedules = FakeSchedules(self.requests, self.functions)
        self.functions.schedules = self.schedules
        self._server_id = str(uuid.uuid4())

    async def tidy(self) -> bool:
        return False  # what is deleted leaves nothing

    async def server_id(self) -> str:
        return self._server_id

    async def close(self) -> None:
        """Nothing is queued."""


class FakeRequests:
    """Idempotent requests."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Request] = {}

    async def find(self, method: str, request_id: str) -> Request | None:
        return self.rows.get((method, request_id))

    async def prune(self, before: datetime, *, limit: int) -> int:
        old = [key for key, request in self.rows.items() if request.create_time < before][:limit]
        for key in old:
            del self.rows[key]
        return len(old)

    def check(self, request: Request | None) -> None:
        if request and (request.method, request.request_id) in self.rows:
            raise AlreadyExistsError("the request id was used before", reason="REQUEST_ID_USED")

    def record(self, request: Request | None) -> None:
        if request:
            self.rows[request.method, request.request_id] = request


class FakeFunctions:
    """Functions by name."""

    schedules: FakeSchedules

    def __init__(
        self, requests: FakeRequests, revisions: FakeRevisions, executions: FakeExecutions
    ) -> None:
        self.rows: dict[FunctionName, Function] = {}
        self._requests = requests
        self._revisions = revisions
        self._executions = executions

    async def create(self, function: Function, request: Request | None = None) -> None:
        self._requests.check(request)
        if function.name in self.rows:
            raise AlreadyExistsError("the function exists already", reason="FUNCTION_EXISTS")
        self._requests.record(request)
        self.rows[function.name] = function

    async def get(self, name: FunctionName) -> Function:
        if name not in self.rows:
            raise NotFoundError("function", str(name))
        return self.rows[name]

    def find(self, name: FunctionName) -> Function | None:
        return self.rows.get(name)

    async def list(self, query: FunctionQuery, page: PageRequest) -> Page[Function]:
        def key(function: Function) -> Cursor:
            name = function.name.function
            if query.order_by == "name":
                return (name,)
            return (_number(getattr(function, query.order_by)), name)

        found = (function for function in self.rows.values() if _is_wanted(function, query))
        return _page(found, key, page, descending=query.descending)

    async def update(
        self, function: Function, *, expected_etag: str, request: Request | None = None
    ) -> None:
        self._requests.check(request)
        await self.check(function.name, expected_etag, function.uid)
        if function.active_revision:
            self._revisions.check(RevisionName(function.name, function.active_revision))
        self._requests.record(request)
        self.rows[function.name] = function

    async def names(self) -> Sequence[FunctionName]:
        return sorted(self.rows, key=_sort_key)

    async def delete(
        self,
        name: FunctionName,
        *,
        expected_etag: str,
        with_schedules: bool = False,
        request: Request | None = None,
    ) -> None:
        self._requests.check(request)
        stored = await self.check(name, expected_etag)
        if any(execution.function_uid == stored.uid for execution in self._executions.running()):
            raise FailedPreconditionError("executions run", reason="EXECUTIONS_UNFINISHED")
        if self.schedules.of(name) and not with_schedules:
            raise FailedPreconditionError("schedules execute it", reason="SCHEDULES_EXIST")
        self._requests.record(request)
        for schedule in self.schedules.of(name):
            del self.schedules.rows[schedule.name]
        del self.rows[name]
        self._revisions.forget(name)

    def check_runnable(self, execution: Execution) -> None:
        """Check that its function and revision exist, and that it may be executed."""
        name = execution.function
        stored = self.rows.get(name)
        if stored is None or stored.uid != execution.function_uid:
            raise NotFoundError("function", str(name))
        if stored.state is FunctionState.DISABLED:
            raise FailedPreconditionError("the function is disabled", reason="FUNCTION_DISABLED")
        if stored.active_revision != execution.revision:
            self._revisions.check(RevisionName(name, execution.revision))

    def used_revisions(self, function: Function) -> set[int]:
        running = self._executions.running()
        return {each.revision for each in running if each.function_uid == function.uid}

    async def check(self, name: FunctionName, etag: str, uid: str | None = None) -> Function:
        """Return the stored function that has this etag and, if given, this uid."""
        stored = await self.get(name)
        if uid not in {None, stored.uid}:
            raise NotFoundError("function", str(name))
        if stored.etag != etag:
            raise AbortedError("the function was changed")
        return stored


def _is_wanted(function: Function, query: FunctionQuery) -> bool:
    return (
        function.name.namespace == query.namespace
        and function.name.function.startswith(query.name_prefix)
        and query.state in {None, function.state}
        and _has_labels(function.labels, query.labels)
    )


class FakeRevisions:
    """Revisions of functions."""

    functions: FakeFunctions

    def __init__(self, requests: FakeRequests) -> None:
        self.rows: dict[RevisionName, Revision] = {}
        self._requests = requests

    async def activate_new(
        self,
        function: Function,
        revision: Revision,
        *,
        expected_etag: str,
        request: Request | None = None,
    ) -> None:
        self._requests.check(request)
        await self.functions.check(function.name, expected_etag, function.uid)
        if revision.name in self.rows:
            raise AbortedError("the revision exists already")
        self.rows[revision.name] = revision
        await self.functions.update(function, expected_etag=expected_etag, request=request)

    async def get(self, name: RevisionName) -> Revision:
        self.check(name)
        return self.rows[name]

    def check(self, name: RevisionName) -> None:
        if name not in self.rows:
            raise NotFoundError("revision", str(name))

    async def latest_number(self, function: FunctionName, *, before: int | None = None) -> int:
        numbers = [name.number for name in self.rows if name.function == function]
        return max((n for n in numbers if before is None or n < before), default=0)

    async def list(self, function: FunctionName, page: PageRequest) -> Page[Revision]:
        found = (row for name, row in self.rows.items() if name.function == function)
        return _page(found, lambda row: (row.name.number,), page, descending=True)

    async def prune(self, function: FunctionName, *, keep: int, limit: int) -> int:
        if function not in self.functions.rows:
            return 0
        owner = self.functions.rows[function]
        needed = self.functions.used_revisions(owner) | {owner.active_revision}
        mine = sorted(name.number for name in self.rows if name.function == function)
        doomed = [number for number in mine[:-keep] if number not in needed][:limit]
        for number in doomed:
            del self.rows[RevisionName(function, number)]
        return len(doomed)

    def forget(self, function: FunctionName) -> None:
        self.rows = {name: row for name, row in self.rows.items() if name.function != function}


class FakeExecutions:
    """Executions, their input and their journals."""

    functions: FakeFunctions

    def __init__(self, requests: FakeRequests) -> None:
        self.rows: dict[ExecutionName, Execution] = {}
        self.inputs: dict[ExecutionName, bytes] = {}
        self.journals: dict[ExecutionName, list[Event]] = {}
        self.attempts_of: dict[ExecutionName, list[Attempt]] = {}
        self.dead_letters: dict[ExecutionName, DeadLetter] = {}
        self.deliveries: dict[str, Delivery] = {}
        self._order: dict[ExecutionName, int] = {}
        self._requests = requests
        self._arriving: dict[ExecutionName, asyncio.Future[None]] = {}

    async def add(
        self,
        execution: Execution,
        input_: bytes,
        events: Sequence[Event],
        request: Request | None = None,
        *,
        check_function: bool = False,
    ) -> None:
        self._requests.check(request)
        if check_function:
            self.functions.check_runnable(execution)
        self._requests.record(request)
        self._order[execution.name] = len(self._order)
        self.rows[execution.name] = execution
        self.inputs[execution.name] = input_
        self.journals[execution.name] = [*events]

    def add_ended(
        self,
        execution: Execution,
        input_: bytes,
        written: Sequence[Output],
        request: Request | None = None,
        *,
        patient: bool = False,
    ) -> asyncio.Future[None]:
        began, ended = execution.start_time, execution.end_time
        assert began is not None
        assert ended is not None
        events = [
            Event(1, execution.create_time, StateChange(ExecutionState.QUEUED)),
            Event(2, began, StateChange(ExecutionState.RUNNING)),
            *(Event(sequence, ended, body) for sequence, body in enumerate(written, 3)),
            Event(execution.last_sequence, ended, Result(execution)),
        ]
        stored = asyncio.ensure_future(self.add(execution, input_, events, request))
        self._arriving[execution.name] = stored
        stored.add_done_callback(lambda _: self._arriving.pop(execution.name))
        return stored

    async def append(
        self,
        name: ExecutionName,
        events: Sequence[Event],
        execution: Execution | None = None,
        *,
        epoch: int = 0,
        attempt: Attempt | None = None,
        aftermath: Aftermath = NOTHING,
    ) -> None:
        stored = await self.get(name)
        if stored.lease.epoch != epoch or stored.state.final:
            raise LeaseLostError("it is in other hands")
        self.journals[name].extend(events)
        if execution is not None:
            self.rows[name] = execution
        if attempt is not None:
            self.attempts_of.setdefault(name, []).append(attempt)
        if aftermath.dead_letter and execution is not None:
            self.dead_letters[name] = DeadLetter(execution)
        if aftermath.delivery is not None:
            self.deliveries[aftermath.delivery.uid] = aftermath.delivery

    async def get(self, name: ExecutionName) -> Execution:
        if name in self._arriving:
            await asyncio.wait({self._arriving[name]})
        if name not in self.rows:
            raise NotFoundError("execution", str(name))
        return self.rows[name]

    async def get_input(self, name: ExecutionName) -> bytes:
        await self.get(name)
        return self.inputs[name]

    async def list(self, query: ExecutionQuery, page: PageRequest) -> Page[Execution]:
        return _page(
            (execution for execution in self.rows.values() if _is_listed(execution, query)),
            lambda execution: (_number(execution.create_time), self._order[execution.name]),
            page,
            descending=query.descending,
        )

    async def attempts(self, name: ExecutionName) -> Sequence[Attempt]:
        await self.get(name)
        return self.attempts_of.get(name, [])

    async def take_over(
        self, owner: str, *, now: datetime, expire_time: datetime
    ) -> Sequence[Execution]:
        for execution in self.running():
            lease = execution.lease
            expired = lease.expire_time is not None and lease.expire_time < now
            queued = execution.state is ExecutionState.QUEUED
            if (queued and not lease.owner) or not (lease.owner in {"", owner} or expired):
                continue
            if queued and not execution.interactive:
                back = replace(execution, position=execution.position or 0)
                self.rows[execution.name] = replace(back, lease=Lease(lease.epoch + 1))
            else:
                lasts = max(lease.expire_time or expire_time, expire_time)
                taken = Lease(lease.epoch + 1, owner, lasts)
                self.rows[execution.name] = replace(execution, lease=taken)
        mine = [
            self._as_journalled(execution)
            for execution in self.running()
            if execution.lease.owner == owner
        ]
        return sorted(mine, key=lambda execution: execution.create_time)

    def _as_journalled(self, execution: Execution) -> Execution:
        events = self.journals[execution.name]
        before = [attempt.last_sequence for attempt in self.attempts_of.get(execution.name, [])]
        last = events[max(before, default=0) :]
        outputs = [event.body for event in last if isinstance(event.body, Output)]
        kept = dict.fromkeys(OutputStream, 0)
        for output in outputs:
            kept[output.stream] = output.offset + len(output.data)
        return replace(
            execution,
            last_sequence=events[-1].sequence if events else 0,
            stdout_bytes=kept[OutputStream.STDOUT],
            stderr_bytes=kept[OutputStream.STDERR],
        )

    def running(self) -> Sequence[Execution]:
        return [execution for execution in self.rows.values() if not execution.state.final]

    async def events(self, name: ExecutionName, *, after: int, limit_bytes: int) -> Sequence[Event]:
        execution = await self.get(name)
        events: list[Event] = []
        for event in self.journals[name]:
            if event.sequence <= after:
                continue
            limit_bytes -= len(event.body.data) if isinstance(event.body, Output) else 0
            if len(events) == MAX_EVENTS or (events and limit_bytes < 0):
                break
            result = isinstance(event.body, Result)
            events.append(Event(event.sequence, event.time, Result(execution)) if result else event)
        return events

    async def output(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        return (await self._output(name, stream))[:limit]

    async def output_tail(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        data = await self._output(name, stream)
        return data[max(0, len(data) - limit) :]

    async def _output(self, name: ExecutionName, stream: OutputStream) -> bytes:
        before = [attempt.last_sequence for attempt in await self.attempts(name)]
        bodies = (event.body for event in self.journals[name][max(before, default=0) :])
        return b"".join(b.data for b in bodies if isinstance(b, Output) and b.stream == stream)

    async def delete(self, name: ExecutionName) -> None:
        if not (await self.get(name)).state.final:
            raise FailedPreconditionError("it has not ended", reason="EXECUTION_UNFINISHED")
        for rows in (
            self.rows,
            self.inputs,
            self.journals,
            self.attempts_of,
            self.dead_letters,
        ):
            rows.pop(name, None)
        gone = [uid for uid, row in self.deliveries.items() if row.execution == name]
        for uid in gone:
            del self.deliveries[uid]

    async def function_names(self) -> Sequence[FunctionName]:
        return sorted({execution.function for execution in self.rows.values()}, key=_sort_key)

    async def prune(
        self, function: FunctionName, *, ended_before: datetime, keep: int, limit: int
    ) -> int:
        mine = [execution for execution in self.rows.values() if execution.function == function]
        mine.sort(key=lambda each: (each.create_time, self._order[each.name]))
        excess = {each.name for each in mine[: max(0, len(mine) - keep)]}
        ended = [each for each in mine if each.end_time and each.state.final]
        doomed = [
            each.name
            for each in ended
            if (each.name in excess and not self._is_unsettled(each.name))
            or (each.end_time and each.end_time < ended_before)
        ][:limit]
        for name in doomed:
            await self.delete(name)
        return len(doomed)

    def _is_unsettled(self, name: ExecutionName) -> bool:
        return name in self.dead_letters and self.dead_letters[name].redriven_as is None

    async def metrics(
        self, function: Function, *, start_time: datetime, end_time: datetime
    ) -> FunctionMetrics:
        found = [
            execution
            for execution in self.rows.values()
            if execution.function_uid == function.uid
            and start_time <= execution.create_time < end_time
        ]
        failures = [execution.failure.reason for execution in found if execution.failure]
        return FunctionMetrics(
            function=function.name,
            start_time=start_time,
            end_time=end_time,
            states=_counts(execution.state for execution in found),
            failures=_counts(failures),
            cold_starts=sum(execution.cold_start for execution in found),
            queue=_latency(execution.timings.queue for execution in found),
            start=_latency(execution.timings.start for execution in found),
            run=_latency(execution.timings.run for execution in found),
            total=_latency(execution.timings.total for execution in found),
            cpu=sum((execution.usage.cpu or timedelta() for execution in found), timedelta()),
            peak_memory_bytes=max((e.usage.peak_memory_bytes or 0 for e in found), default=0),
            warm_starts=sum(_is_warm(execution) for execution in found),
            cold_total=_latency(e.timings.total for e in found if e.cold_start),
            warm_total=_latency(e.timings.total for e in found if _is_warm(e)),
            init=_latency(execution.timings.init for execution in found),
        )


def _is_warm(execution: Execution) -> bool:
    return bool(execution.instance) and not execution.cold_start


class FakeWaiting:
    """Executions that wait for their time, or for a place."""

    def __init__(self, executions: FakeExecutions) -> None:
        self._executions = executions

    async def next_time(self) -> datetime | None:
        return min((row.not_before for row in self._delayed() if row.not_before), default=None)

    async def queue_due(self, now: datetime, limit: int, position: int) -> Sequence[Queued]:
        due = sorted(
            (row.not_before, row.name)
            for row in self._delayed()
            if row.not_before and row.not_before <= now
        )
        queued = []
        for place, (_, name) in enumerate(due[:limit], position):
            row = self._executions.rows[name]
            self._executions.rows[name] = replace(row, position=place)
            queued.append(Queued(row.function_uid, _revision_of(row), 1, place))
        return queued

    async def queued(self) -> Sequence[Queued]:
        groups: dict[tuple[str, RevisionName], list[int]] = {}
        for row in self._queued():
            groups.setdefault((row.function_uid, _revision_of(row)), []).append(row.position or 0)
        return [Queued(*key, len(places), max(places)) for key, places in groups.items()]

    async def claim_first(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        mine = [row for row in self._queued() if row.function_uid == function_uid]
        return self._claim(mine[:limit], owner, expire_time)

    async def claim_late(
        self, place: Queued, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        late = [
            row
            for row in self._queued()
            if (row.function_uid, _revision_of(row)) == (place.function_uid, place.revision)
            and (row.position or 0) <= place.last
        ]
        return self._claim(late[:limit], owner, expire_time)

    async def claim(
        self, name: ExecutionName, owner: str, expire_time: datetime
    ) -> Execution | None:
        waiting = [row for row in [*self._queued(), *self._delayed()] if row.name == name]
        claimed = self._claim(waiting, owner, expire_time)
        return claimed[0] if claimed else None

    async def claim_any(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        waiting = [*self._queued(), *self._delayed()]
        mine = [row for row in waiting if row.function_uid == function_uid]
        return self._claim(mine[:limit], owner, expire_time)

    def _delayed(self) -> Sequence[Execution]:
        return [row for row in self._unclaimed() if row.not_before and row.position is None]

    def _queued(self) -> Sequence[Execution]:
        waiting = [row for row in self._unclaimed() if row.position is not None]
        return sorted(waiting, key=lambda row: row.position or 0)

    def _unclaimed(self) -> Sequence[Execution]:
        return [
            row
            for row in self._executions.running()
            if row.state is ExecutionState.QUEUED and not row.lease.owner
        ]

    def _claim(
        self, rows: Sequence[Execution], owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        taken = [replace(row, lease=Lease(row.lease.epoch + 1, owner, expire_time)) for row in rows]
        self._executions.rows.update({row.name: row for row in taken})
        return taken


def _revision_of(execution: Execution) -> RevisionName:
    return RevisionName(execution.function, execution.revision)


class FakeDeadLetters:
    """Dead letters by the name of their execution."""

    def __init__(self, executions: FakeExecutions) -> None:
        self._executions = executions
        self._rows = executions.dead_letters

    async def get(self, name: ExecutionName) -> DeadLetter:
        if name not in self._rows:
            raise NotFoundError("dead letter", str(name))
        return self._rows[name]

    async def list(self, query: DeadLetterQuery, page: PageRequest) -> Page[DeadLetter]:
        return _page(
            self._chosen(query),
            lambda letter: (_number(_end_of(letter)), letter.name.execution),
            page,
            descending=query.descending,
        )

    async def redrive(
        self, name: ExecutionName, execution: Execution, events: Sequence[Event]
    ) -> ExecutionName:
        letter = await self.get(name)
        if letter.redriven_as is not None:
            return letter.redriven_as
        input_ = await self._executions.get_input(name)
        await self._executions.add(execution, input_, events, check_function=True)
        self._rows[name] = replace(
            letter, redriven_as=execution.name, redrive_time=execution.create_time
        )
        return execution.name

    async def purge(self, query: DeadLetterQuery, limit: int) -> int:
        doomed = sorted(self._chosen(query), key=_end_of)[:limit]
        for letter in doomed:
            await self._executions.delete(letter.name)
        return len(doomed)

    def _chosen(self, query: DeadLetterQuery) -> Iterable[DeadLetter]:
        return [letter for letter in self._rows.values() if _is_chosen(letter, query)]


def _end_of(letter: DeadLetter) -> datetime:
    assert letter.execution.end_time is not None
    return letter.execution.end_time


def _is_chosen(letter: DeadLetter, query: DeadLetterQuery) -> bool:
    execution, end = letter.execution, _end_of(letter)
    return (
        letter.name.namespace == query.namespace
        and query.function in {"", execution.function.function}
        and (query.reason is None or getattr(execution.failure, "reason", None) is query.reason)
        and (query.ended_from is None or end >= query.ended_from)
        and (query.ended_before is None or end < query.ended_before)
        and (letter.redriven_as is not None) == query.redriven
        and _has_labels(execution.labels, query.labels)
    )


class FakeDeliveries:
    """Deliveries by the time at which to try them."""

    def __init__(self, executions: FakeExecutions) -> None:
        self._rows = executions.deliveries

    async def next_time(self, *, after: datetime) -> datetime | None:
        times = (row.next_time for row in self._rows.values() if row.next_time)
        return min((each for each in times if each > after), default=None)

    async def due(self, now: datetime, limit: int) -> Sequence[Delivery]:
        due = [
            (row.next_time, row.uid)
            for row in self._rows.values()
            if row.next_time and row.next_time <= now
        ]
        return [self._rows[uid] for _, uid in sorted(due)[:limit]]

    async def of_execution(self, name: ExecutionName) -> Sequence[Delivery]:
        return [row for row in self._rows.values() if row.execution == name]

    async def update(self, delivery: Delivery) -> None:
        if delivery.uid in self._rows:
            self._rows[delivery.uid] = delivery


class FakeImages:
    """Images that engines have only because a deployment pulled them."""

    def __init__(self, revisions: FakeRevisions) -> None:
        self.rows: set[PulledImage] = set()
        self._revisions = revisions

    async def add(self, image: PulledImage) -> None:
        self.rows.add(image)

    async def unused(self) -> Sequence[PulledImage]:
        used = {revision.image_id for revision in self._revisions.rows.values()}
        return [image for image in self.rows if image.image_id not in used]

    async def delete(self, image: PulledImage) -> None:
        self.rows.discard(image)


class FakeTokens:
    """Tokens by name."""

    def __init__(self) -> None:
        self.rows: dict[TokenName, Token] = {}

    async def create(self, token: Token) -> None:
        if token.name in self.rows:
            raise AlreadyExistsError("the token exists already", reason="TOKEN_EXISTS")
        self.rows[token.name] = token

    async def all(self) -> Sequence[Token]:
        return list(self.rows.values())

    async def delete(self, name: TokenName) -> None:
        if self.rows.pop(name, None) is None:
            raise NotFoundError("token", str(name))


class FakeSecrets:
    """Secrets by name, with their values as they are."""

    def __init__(self, requests: FakeRequests) -> None:
        self.rows: dict[SecretName, Secret] = {}
        self.values: dict[SecretName, bytes] = {}
        self._requests = requests

    async def create(self, secret: Secret, value: bytes, request: Request | None = None) -> None:
        self._requests.check(request)
        if secret.name in self.rows:
            raise AlreadyExistsError("the secret exists already", reason="SECRET_EXISTS")
        self._requests.record(request)
        self._set(secret, value)

    async def get(self, name: SecretName) -> Secret:
        if name not in self.rows:
            raise NotFoundError("secret", str(name))
        return self.rows[name]

    async def value(self, name: SecretName) -> bytes:
        await self.get(name)
        return self.values[name]

    async def make_key(self) -> None:
        """There is none."""

    async def mark(self, value: bytes) -> bytes:
        return hashlib.sha256(value).digest()

    async def list(self, namespace: str, page: PageRequest) -> Page[Secret]:
        after = str(page.after[0]) if page.after else ""
        names = sorted(
            name for name in self.rows if name.namespace == namespace and name.secret > after
        )
        items = tuple(self.rows[name] for name in names[: page.size])
        more = len(names) > page.size
        return Page(items, (items[-1].name.secret,) if more else None)

    async def update(
        self, secret: Secret, value: bytes, *, expected_etag: str, request: Request | None = None
    ) -> None:
        self._requests.check(request)
        await self._check_etag(secret.name, expected_etag)
        self._requests.record(request)
        self._set(secret, value)

    async def delete(
        self, name: SecretName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        self._requests.check(request)
        await self._check_etag(name, expected_etag)
        self._requests.record(request)
        del self.rows[name], self.values[name]

    async def _check_etag(self, name: SecretName, expected: str) -> None:
        if (await self.get(name)).etag != expected:
            raise AbortedError("the secret was changed by somebody else")

    def _set(self, secret: Secret, value: bytes) -> None:
        self.rows[secret.name], self.values[secret.name] = secret, value


def _sort_key(name: FunctionName) -> tuple[str, str]:
    return name.namespace, name.function


class FakeSchedules:
    """Schedules by name, and by the time at which to deal with them."""

    def __init__(self, requests: FakeRequests, functions: FakeFunctions) -> None:
        self.rows: dict[ScheduleName, Schedule] = {}
        self._requests = requests
        self._functions = functions

    def of(self, function: FunctionName) -> Sequence[Schedule]:
        return [schedule for schedule in self.rows.values() if schedule.spec.function == function]

    async def create(self, schedule: Schedule, request: Request | None = None) -> None:
        self._requests.check(request)
        await self._functions.get(schedule.spec.function)
        if schedule.name in self.rows:
            raise AlreadyExistsError("the schedule exists already", reason="SCHEDULE_EXISTS")
        self._requests.record(request)
        self.rows[schedule.name] = schedule

    async def get(self, name: ScheduleName) -> Schedule:
        if name not in self.rows:
            raise NotFoundError("schedule", str(name))
        return self.rows[name]

    async def list(self, query: ScheduleQuery, page: PageRequest) -> Page[Schedule]:
        found = (
            replace(schedule, spec=replace(schedule.spec, input=b""))
            for schedule in self.rows.values()
            if schedule.name.namespace == query.namespace
            and query.function in {"", schedule.spec.function.function}
            and query.paused in {None, schedule.paused}
        )
        return _page(found, lambda row: (row.name.schedule,), page, descending=False)

    async def update(
        self,
        schedule: Schedule,
        *,
        expected_etag: str,
        replan: bool,
        request: Request | None = None,
    ) -> None:
        self._requests.check(request)
        stored = await self._check(schedule.name, expected_etag)
        if stored.uid != schedule.uid:
            raise NotFoundError("schedule", str(schedule.name))
        await self._functions.get(schedule.spec.function)
        self._requests.record(request)
        fields = ["spec", "paused", "etag", "update_time"]
        fields += ["next_time", "wake_time", "state_message"] if replan else []
        self._change(stored, schedule, *fields)

    async def delete(
        self, name: ScheduleName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        self._requests.check(request)
        await self._check(name, expected_etag)
        self._requests.record(request)
        del self.rows[name]

    async def due(self, now: datetime, limit: int) -> Sequence[ScheduleName]:
        wakes = sorted((wake, name) for wake, name in self._wakes() if wake <= now)
        return [name for _, name in wakes[:limit]]

    async def next_wake(self) -> datetime | None:
        return min((wake for wake, _ in self._wakes()), default=None)

    async def settle(self, schedule: Schedule, *, due: datetime) -> None:
        stored = self.rows.get(schedule.name)
        if stored is None or stored.uid != schedule.uid:
            return
        fields = ["state_message", "last_due_time", "last_execution"]
        fields += ["fired_count", "skipped_count", "missed_count"]
        fields += ["next_time", "wake_time"] if stored.next_time == due else []
        self._change(stored, schedule, *fields)

    async def note_execution(self, schedule: Schedule, execution: ExecutionName) -> None:
        stored = self.rows.get(schedule.name)
        if stored is not None and stored.uid == schedule.uid:
            self.rows[schedule.name] = replace(stored, last_execution=execution)

    def _wakes(self) -> Sequence[tuple[datetime, ScheduleName]]:
        return [(row.wake_time, name) for name, row in self.rows.items() if row.wake_time]

    def _change(self, stored: Schedule, changed: Schedule, *fields: str) -> None:
        changes: dict[str, Any] = {field: getattr(changed, field) for field in fields}
        self.rows[stored.name] = replace(stored, **changes)

    async def _check(self, name: ScheduleName, etag: str) -> Schedule:
        stored = await self.get(name)
        if stored.etag != etag:
            raise AbortedError("the schedule was changed")
        return stored


def _is_listed(execution: Execution, query: ExecutionQuery) -> bool:
    return (
        execution.name.namespace == query.namespace
        and query.function in {"", execution.function.function}
        and (not query.states or execution.state in query.states)
        and (query.created_from is None or execution.create_time >= query.created_from)
        and (query.created_before is None or execution.create_time < query.created_before)
        and _has_labels(execution.labels, query.labels)
    )


def _has_labels(labels: dict[str, str], filters: Iterable[LabelFilter]) -> bool:
    return all(f.key in labels and f.value in {None, labels[f.key]} for f in filters)


def _page(
    items: Iterable[T], key: Callable[[T], Any], page: PageRequest, *, descending: bool
) -> Page[T]:
    ordered = sorted(items, key=key, reverse=descending)
    if page.after is not None:
        after = page.after
        ordered = [i for i in ordered if (key(i) < after if descending else key(i) > after)]
    kept = tuple(ordered[: page.size])
    return Page(kept, key(kept[-1]) if len(ordered) > page.size else None)


def _number(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


def _counts(keys: Iterable[T]) -> dict[T, int]:
    counts: dict[T, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts


def _latency(durations: Iterable[timedelta | None]) -> LatencySummary:
    known = sorted(duration for duration in durations if duration is not None)
    if not known:
        return LatencySummary()
    return LatencySummary(*(known[-(-len(known) * percent // 100) - 1] for percent in (50, 95, 99)))
