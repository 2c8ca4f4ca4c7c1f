"""Dead letters: what failed for good while nobody waited, for somebody to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from skybridge_server.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import Event, StateChange
from skybridge_server.models.names import ExecutionName, new_id
from skybridge_server.models.paging import Cursor, DeadLetterQuery, Page, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.clock import Clock
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.rules import check_contract_input
from skybridge_server.services.violations import Violations

REDRIVE_LABEL = "skybridge.redrive-of"
BATCH = 1000
"""Dead letters that are dealt with in one call."""


@dataclass(frozen=True, slots=True)
class Redrives:
    """What became of a page of dead letters."""

    executions: tuple[ExecutionName, ...]
    refused: tuple[tuple[ExecutionName, str], ...]
    """Those that could not be redriven, and why."""
    next: Cursor | None


class DeadLetterService:
    """All dead letters of one server."""

    def __init__(
        self,
        repositories: Repositories,
        acceptance: Acceptance,
        clock: Clock,
        on_redrive: Callable[[], None],
    ) -> None:
        """`on_redrive`: called when executions are stored that may start at once."""
        self._dead_letters = repositories.dead_letters
        self._executions = repositories.executions
        self._acceptance = acceptance
        self._clock = clock
        self._on_redrive = on_redrive
        self._storing: set[asyncio.Task[ExecutionName]] = set()

    async def get(self, name: ExecutionName) -> DeadLetter:
        """Return a dead letter. NotFoundError."""
        return await self._dead_letters.get(name)

    async def input(self, letter: DeadLetter) -> bytes:
        """Return the input of a dead letter. NotFoundError."""
        return await self._executions.get_input(letter.name)

    async def list(self, query: DeadLetterQuery, page: PageRequest) -> Page[DeadLetter]:
        """Return a page of dead letters."""
        return await self._dead_letters.list(query, page)

    async def redrive(self, name: ExecutionName) -> ExecutionName:
        """Make a new execution of a dead letter, once; return its name.

        NotFoundError, FailedPreconditionError, InvalidArgumentError, StorageFullError.
        """
        letter = await self._dead_letters.get(name)
        return letter.redriven_as or await self._redrive(letter)

    async def redrive_all(self, query: DeadLetterQuery, after: Cursor | None) -> Redrives:
        """Make new executions of the next dead letters of a query, the oldest first.

        StorageError.
        """
        oldest_first = replace(query, descending=False)
        page = await self._dead_letters.list(oldest_first, PageRequest(BATCH, after))
        done = await asyncio.gather(*(self._try_to_redrive(letter) for letter in page.items))
        return Redrives(
            executions=tuple(each for each in done if isinstance(each, ExecutionName)),
            refused=tuple(
                (letter.name, each)
                for letter, each in zip(page.items, done, strict=True)
                if isinstance(each, str)
            ),
            next=page.next,
        )

    async def purge(self, query: DeadLetterQuery) -> int:
        """Delete dead letters, the oldest first; return how many, BATCH if there may be more."""
        return await self._dead_letters.purge(query, BATCH)

    async def _try_to_redrive(self, letter: DeadLetter) -> ExecutionName | str:
        try:
            return letter.redriven_as or await self._redrive(letter)
        except (NotFoundError, FailedPreconditionError, InvalidArgumentError) as error:
            return error.message

    async def _redrive(self, letter: DeadLetter) -> ExecutionName:
        old = letter.execution
        function, revision = await self._acceptance.runnable(old.function)
        with Violations() as wrong:
            asked = ExecutionRequest(
                function.name, input=await self.input(letter), envelope=old.asked
            )
            check_contract_input(asked, revision.spec.contract, wrong)
        now = self._clock.now()
        new = Execution(
            name=ExecutionName(old.name.namespace, new_id()),
            function=function.name,
            function_uid=function.uid,
            revision=revision.name.number,
            create_time=now,
            not_before=now,
            timeout=old.timeout,
            background=True,
            traceparent=old.traceparent,
            last_sequence=1,
            labels=old.labels | {REDRIVE_LABEL: old.name.execution},
            asked=old.asked,
        )
        # To the end, whatever becomes of the caller: what is stored waits to be noticed.
        storing = asyncio.create_task(self._store(letter, new))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        return await asyncio.shield(storing)

    async def _store(self, letter: DeadLetter, new: Execution) -> ExecutionName:
        first_event = Event(1, new.create_time, StateChange(new.state))
        name = await self._dead_letters.redrive(letter.name, new, [first_event])
        self._on_redrive()
        return name
