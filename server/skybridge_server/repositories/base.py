"""The protocols of the repositories: what services may ask of the store.

All methods are coroutines that return once the change is committed to disk. Each call is one
transaction: all of it or nothing. A store that cannot write or read raises StorageError.
Where a method takes a Request, it is recorded in the same transaction; if its method and request id
are recorded already, nothing is written and AlreadyExistsError (reason REQUEST_ID_USED) is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from skybridge_server.models.aftermath import NOTHING, Aftermath
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.destinations import Delivery
from skybridge_server.models.executions import Attempt, Execution, Queued
from skybridge_server.models.functions import Function, PulledImage, Revision
from skybridge_server.models.journal import Event, Output, OutputStream
from skybridge_server.models.metrics import FunctionMetrics
from skybridge_server.models.names import (
    ExecutionName,
    FunctionName,
    RevisionName,
    ScheduleName,
    SecretName,
)
from skybridge_server.models.paging import (
    DeadLetterQuery,
    ExecutionQuery,
    FunctionQuery,
    Page,
    PageRequest,
    ScheduleQuery,
)
from skybridge_server.models.requests import Request
from skybridge_server.models.schedules import Schedule
from skybridge_server.models.secrets import Secret
from skybridge_server.models.tokens import Token, TokenName


class FunctionRepository(Protocol):
    """Functions by name."""

    async def create(self, function: Function, request: Request | None = None) -> None:
        """Store a new function. AlreadyExistsError (reason FUNCTION_EXISTS): the name is taken."""
        ...

    async def get(self, name: FunctionName) -> Function:
        """Return a function. NotFoundError."""
        ...

    def find(self, name: FunctionName) -> Function | None:
        """Return a function if it is at hand, as one that is executed often is."""
        ...

    async def list(self, query: FunctionQuery, page: PageRequest) -> Page[Function]:
        """Return a page of functions in the order of the query."""
        ...

    async def update(
        self, function: Function, *, expected_etag: str, request: Request | None = None
    ) -> None:
        """Replace a stored function that still has `expected_etag`.

        NotFoundError: there is none of this name and uid, or its active revision is gone.
        AbortedError: it has another etag.
        """
        ...

    async def delete(
        self,
        name: FunctionName,
        *,
        expected_etag: str,
        with_schedules: bool = False,
        request: Request | None = None,
    ) -> None:
        """Delete a function and its revisions, not its executions. Errors as in update.

        FailedPreconditionError: executions of it have not ended (reason EXECUTIONS_UNFINISHED), or
        schedules execute it and shall not go with it (reason SCHEDULES_EXIST).
        """
        ...

    async def names(self) -> Sequence[FunctionName]:
        """Return the names of all functions, in order."""
        ...


class RevisionRepository(Protocol):
    """Revisions of functions."""

    async def activate_new(
        self,
        function: Function,
        revision: Revision,
        *,
        expected_etag: str,
        request: Request | None = None,
    ) -> None:
        """Store a new revision and the function that now runs it. Errors as in update.

        AbortedError also if the function already has a revision of this number.
        """
        ...

    async def get(self, name: RevisionName) -> Revision:
        """Return a revision. NotFoundError."""
        ...

    async def latest_number(self, function: FunctionName, *, before: int | None = None) -> int:
        """Return the highest number of the function's revisions, or of those below `before`.

        0 without any.
        """
        ...

    async def list(self, function: FunctionName, page: PageRequest) -> Page[Revision]:
        """Return a page of revisions, the newest first."""
        ...

    async def prune(self, function: FunctionName, *, keep: int, limit: int) -> int:
        """Delete up to `limit` revisions, the oldest first; return how many.

        The `keep` newest stay, at least one; so do the active one, and those that executions which
        have not ended use.
        """
        ...


class ExecutionRepository(Protocol):
    """Executions, their input and their journals."""

    def add(
        self,
        execution: Execution,
        input_: bytes,
        events: Sequence[Event],
        request: Request | None = None,
        *,
        check_function: bool = False,
    ) -> Awaitable[None]:
        """Store a new execution, its input and the first events of its journal.

        StorageFullError also while there is room left for those that were added before.

        `check_function`: only if its function and revision still exist and it is not disabled;
        NotFoundError, FailedPreconditionError (reason FUNCTION_DISABLED).
        """
        ...

    def add_ended(
        self,
        execution: Execution,
        input_: bytes,
        written: Sequence[Output],
        request: Request | None = None,
        *,
        patient: bool = False,
    ) -> asyncio.Future[None]:
        """Store an execution that has run straight to its end, with what it wrote, all in one.

        Its journal is what every such execution went through, with these outputs before the
        result. Who reads it meanwhile waits until it is stored. StorageError, also at once.
        `patient`: others may be waited for up to 20 ms, to share the write.
        """
        ...

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
        """Append events to a journal and, if given, replace the execution's stored state.

        `attempt`: the one that ended so; `execution` is then the one that waits for the next.
        `aftermath`: what follows from the end of `execution`, stored with it.
        LeaseLostError: the lease has another epoch than `epoch`, or the execution has ended. So
        an `execution` whose lease has the next epoch takes the lease, and of several who read the
        same epoch only one can; one without an owner gives it back.

        Calls for one execution are written in the order in which they were made, also when they
        are made without waiting for the one before.
        """
        ...

    async def get(self, name: ExecutionName) -> Execution:
        """Return an execution. NotFoundError."""
        ...

    async def get_input(self, name: ExecutionName) -> bytes:
        """Return the input of an execution. NotFoundError."""
        ...

    async def list(self, query: ExecutionQuery, page: PageRequest) -> Page[Execution]:
        """Return a page of executions in the order of the query."""
        ...

    async def attempts(self, name: ExecutionName) -> Sequence[Attempt]:
        """Return the attempts of an execution that others followed, in order. NotFoundError."""
        ...

    async def take_over(
        self, owner: str, *, now: datetime, expire_time: datetime
    ) -> Sequence[Execution]:
        """Take the leases of all executions that were begun, but of those that others still hold.

        That is what an earlier process of this `owner` held, what nobody holds, and what has
        expired by `now`; each epoch goes up by one, and the leases last until `expire_time` at
        least. Returns them, the oldest first. Their `last_sequence` is what their journals hold,
        and their `stdout_bytes` and `stderr_bytes` what those hold of the last attempt.

        What was taken out of the queue and not begun goes back to its place there; but what is
        interactive has lost its caller, and is returned, too.
        """
        ...

    async def events(self, name: ExecutionName, *, after: int, limit_bytes: int) -> Sequence[Event]:
        """Return the events that follow sequence `after`, in order.

        At least one if there is one, then as many as fit in `limit_bytes` of output data and in
        1,000 events.
        """
        ...

    async def output(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        """Return the first `limit` bytes that were kept of a stream of the last attempt."""
        ...

    async def output_tail(self, name: ExecutionName, stream: OutputStream, limit: int) -> bytes:
        """Return the last `limit` bytes that were kept of a stream of the last attempt."""
        ...

    async def delete(self, name: ExecutionName) -> None:
        """Delete an execution that has ended, its input and its journal.

        NotFoundError. FailedPreconditionError (reason EXECUTION_UNFINISHED).
        """
        ...

    async def function_names(self) -> Sequence[FunctionName]:
        """Return the names of all functions that executions are kept of, existing or not."""
        ...

    async def prune(
        self, function: FunctionName, *, ended_before: datetime, keep: int, limit: int
    ) -> int:
        """Delete up to `limit` executions that have ended, the oldest first; return how many.

        Those that ended before a time go, and those that are not among the `keep` newest, except
        for dead letters that were not redriven.
        """
        ...

    async def metrics(
        self, function: Function, *, start_time: datetime, end_time: datetime
    ) -> FunctionMetrics:
        """Sum up the executions of a function that were created in [start_time, end_time)."""
        ...


class WaitingRepository(Protocol):
    """Executions that wait in the store: for their time, and then in the queue of their function.

    Those with `not_before` and without `position` wait for their time; those with a `position`
    whose lease has no owner wait in the queue, the lowest position first. Who claims some gets
    them as they waited, with a lease, and has to let them go on; of several each gets others.
    `ExecutionRepository.take_over` puts back what a process that is gone had claimed.
    """

    async def next_time(self) -> datetime | None:
        """Return the earliest `not_before`."""
        ...

    async def queue_due(self, now: datetime, limit: int, position: int) -> Sequence[Queued]:
        """Put executions whose time has come into their queues, the longest waiting first.

        They get the positions from `position` on. Returns each by itself.
        """
        ...

    async def queued(self) -> Sequence[Queued]:
        """Return what waits in the queues, by function and revision."""
        ...

    async def claim_first(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        """Claim the first executions of a function's queue, in order."""
        ...

    async def claim_late(
        self, place: Queued, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        """Claim executions of a revision up to the last position of a `place`, in order."""
        ...

    async def claim(
        self, name: ExecutionName, owner: str, expire_time: datetime
    ) -> Execution | None:
        """Claim an execution out of its turn, or before its time; None if it does not wait."""
        ...

    async def claim_any(
        self, function_uid: str, limit: int, owner: str, expire_time: datetime
    ) -> Sequence[Execution]:
        """Claim executions of a function, whatever they wait for; none: no more wait."""
        ...


class DeadLetterRepository(Protocol):
    """Dead letters by the name of their execution; they are deleted with it."""

    async def get(self, name: ExecutionName) -> DeadLetter:
        """Return a dead letter, redriven or not. NotFoundError."""
        ...

    async def list(self, query: DeadLetterQuery, page: PageRequest) -> Page[DeadLetter]:
        """Return a page of dead letters by the time of their end."""
        ...

    async def redrive(
        self, name: ExecutionName, execution: Execution, events: Sequence[Event]
    ) -> ExecutionName:
        """Store a new execution with the input of a dead letter, and note it there; once.

        Returns its name or, if that was done before, the name of the one stored then.
        NotFoundError, FailedPreconditionError, StorageFullError as in `ExecutionRepository.add`
        with `check_function`; NotFoundError also for the dead letter.
        """
        ...

    async def purge(self, query: DeadLetterQuery, limit: int) -> int:
        """Delete up to `limit` dead letters with their executions, the oldest first.

        Returns how many.
        """
        ...


class DeliveryRepository(Protocol):
    """Deliveries, by the time at which to try them; they are deleted with their execution."""

    async def next_time(self, *, after: datetime) -> datetime | None:
        """Return the earliest time later than that at which one is to be tried."""
        ...

    async def due(self, now: datetime, limit: int) -> Sequence[Delivery]:
        """Return those whose time has come, the longest waiting first."""
        ...

    async def of_execution(self, name: ExecutionName) -> Sequence[Delivery]:
        """Return those of an execution."""
        ...

    async def update(self, delivery: Delivery) -> None:
        """Store what became of a delivery, if its execution still exists."""
        ...


class ScheduleRepository(Protocol):
    """Schedules by name, and by the time at which to deal with them.

    Users and the scheduler write beside each other, each other fields of a schedule. The plan,
    `next_time` and `wake_time`, belongs to both: who changes it last must have seen it.
    """

    async def create(self, schedule: Schedule, request: Request | None = None) -> None:
        """Store a new schedule.

        NotFoundError: there is no such function. AlreadyExistsError (reason SCHEDULE_EXISTS): the
        name is taken.
        """
        ...

    async def get(self, name: ScheduleName) -> Schedule:
        """Return a schedule. NotFoundError."""
        ...

    async def list(self, query: ScheduleQuery, page: PageRequest) -> Page[Schedule]:
        """Return a page of schedules by name, without their input."""
        ...

    async def update(
        self,
        schedule: Schedule,
        *,
        expected_etag: str,
        replan: bool,
        request: Request | None = None,
    ) -> None:
        """Store what a user changed of a schedule that still has `expected_etag`.

        That is `spec`, `paused`, `etag` and `update_time`; with `replan` also the plan and the
        message. NotFoundError: there is none of this name and uid, or no such function.
        AbortedError: it has another etag.
        """
        ...

    async def delete(
        self, name: ScheduleName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        """Delete a schedule. Errors as in update."""
        ...

    async def due(self, now: datetime, limit: int) -> Sequence[ScheduleName]:
        """Return the schedules whose `wake_time` has come, the longest waiting first."""
        ...

    async def next_wake(self) -> datetime | None:
        """Return the earliest `wake_time`."""
        ...

    async def settle(self, schedule: Schedule, *, due: datetime) -> None:
        """Store what became of the due time `due`, if the schedule still exists.

        That is the message, what was last, the counts and, unless a user has changed it since, the
        plan.
        """
        ...

    async def note_execution(self, schedule: Schedule, execution: ExecutionName) -> None:
        """Store the last execution of a schedule, if it still exists."""
        ...


class RequestRepository(Protocol):
    """Idempotent requests."""

    async def find(self, method: str, request_id: str) -> Request | None:
        """Return what was recorded under a request id."""
        ...

    async def prune(self, before: datetime, *, limit: int) -> int:
        """Forget up to `limit` requests that were recorded before a time; return how many."""
        ...


class ImageRepository(Protocol):
    """Images that engines have only because a deployment pulled them."""

    async def add(self, image: PulledImage) -> None:
        """Remember an image; nothing happens if it is known."""
        ...

    async def unused(self) -> Sequence[PulledImage]:
        """Return those that no revision refers to."""
        ...

    async def delete(self, image: PulledImage) -> None:
        """Forget an image; nothing happens if it is not known."""
        ...


class TokenRepository(Protocol):
    """Tokens; of their secrets, only hashes."""

    async def create(self, token: Token) -> None:
        """Store a token, which has a name. AlreadyExistsError (reason TOKEN_EXISTS)."""
        ...

    async def all(self) -> Sequence[Token]:
        """Return all tokens, in any order."""
        ...

    async def delete(self, name: TokenName) -> None:
        """Delete a token. NotFoundError."""
        ...


class SecretRepository(Protocol):
    """Secrets, whose values are encrypted.

    What needs a value raises FailedPreconditionError (reason SECRETS_SEALED) where the key is
    missing, or is another one.
    """

    async def create(self, secret: Secret, value: bytes, request: Request | None = None) -> None:
        """Store a secret. AlreadyExistsError (reason SECRET_EXISTS)."""
        ...

    async def get(self, name: SecretName) -> Secret:
        """Return what is to be known of a secret. NotFoundError."""
        ...

    async def value(self, name: SecretName) -> bytes:
        """Return the value of a secret. NotFoundError."""
        ...

    async def make_key(self) -> None:
        """See to it that there is a key, if there is no secret yet."""
        ...

    async def mark(self, value: bytes) -> bytes:
        """Return what tells values apart, and helps nobody to guess one."""
        ...

    async def list(self, namespace: str, page: PageRequest) -> Page[Secret]:
        """Return a page of the secrets of a namespace, by name."""
        ...

    async def update(
        self, secret: Secret, value: bytes, *, expected_etag: str, request: Request | None = None
    ) -> None:
        """Store what a user has changed. NotFoundError. AbortedError: it has another etag."""
        ...

    async def delete(
        self, name: SecretName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        """Delete a secret. Errors as in update."""
        ...


class Repositories(Protocol):
    """All repositories of one store."""

    @property
    def functions(self) -> FunctionRepository: ...
    @property
    def revisions(self) -> RevisionRepository: ...
    @property
    def executions(self) -> ExecutionRepository: ...
    @property
    def waiting(self) -> WaitingRepository: ...
    @property
    def dead_letters(self) -> DeadLetterRepository: ...
    @property
    def deliveries(self) -> DeliveryRepository: ...
    @property
    def schedules(self) -> ScheduleRepository: ...
    @property
    def requests(self) -> RequestRepository: ...
    @property
    def images(self) -> ImageRepository: ...
    @property
    def tokens(self) -> TokenRepository: ...
    @property
    def secrets(self) -> SecretRepository: ...

    async def tidy(self) -> bool:
        """Do a small piece of what deletions left to do; tell whether there may be more.

        What is deleted is gone for readers at once; its space is given back piece by piece.
        """
        ...

    async def server_id(self) -> str:
        """Return the identity of this store, made when the store was: a UUID."""
        ...

    async def close(self) -> None:
        """Write what is queued and close the store."""
        ...
