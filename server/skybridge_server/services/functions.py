"""Functions: creates, changes and deletes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from skybridge_server.errors import AbortedError, AlreadyExistsError, NotFoundError
from skybridge_server.models.functions import Function, FunctionState
from skybridge_server.models.names import FunctionName, new_id
from skybridge_server.models.paging import FunctionQuery, Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.etags import check_etag
from skybridge_server.services.requests import FunctionDraft, RequestKey


class Executions(Protocol):
    """What is needed of executions to delete a function."""

    async def cancel_all(self, function_uid: str) -> None:
        """Stop all executions of a function, and wait until they have ended."""
        ...


class Instances(Protocol):
    """Who keeps instances of functions."""

    async def follow(self, name: FunctionName, uid: str) -> None:
        """Keep instances of what executions of a function run now, and of nothing else."""
        ...


class FunctionService:
    """All functions of one server."""

    def __init__(
        self, repositories: Repositories, executions: Executions, instances: Instances
    ) -> None:
        self._repositories = repositories
        self._functions = repositories.functions
        self._executions = executions
        self._instances = instances

    async def create(
        self,
        name: FunctionName,
        draft: FunctionDraft,
        *,
        key: RequestKey | None,
        validate_only: bool,
    ) -> Function:
        """Create a function. AlreadyExistsError."""
        now = datetime.now(UTC)
        function = Function(
            name=name,
            uid=new_id(),
            spec=draft.spec,
            description=draft.description,
            labels=draft.labels,
            create_time=now,
            update_time=now,
            etag=new_id(),
        )
        if validate_only:
            await self._check_free(name)
            return function

        async def do() -> Function:
            await self._functions.create(function, idempotency.record(key, function=function))
            return function

        return await idempotency.once(self._repositories.requests, key, do, first_answer)

    async def get(self, name: FunctionName) -> Function:
        """Return a function. NotFoundError."""
        return await self._functions.get(name)

    async def list(self, query: FunctionQuery, page: PageRequest) -> Page[Function]:
        """Return a page of functions."""
        return await self._functions.list(query, page)

    async def update(
        self,
        name: FunctionName,
        apply: Callable[[Function], FunctionDraft],
        *,
        etag: str,
        key: RequestKey | None,
        validate_only: bool,
    ) -> Function:
        """Change a function to what `apply` makes of it. NotFoundError, AbortedError."""

        def change(function: Function) -> Function:
            draft = apply(function)
            changed = replace(
                function, spec=draft.spec, description=draft.description, labels=draft.labels
            )
            if draft.spec == function.spec:
                return changed
            return replace(changed, generation=function.generation + 1)

        if validate_only:
            function = await self._functions.get(name)
            check_etag(function, etag)
            return change(function)
        return await self.change(name, change, etag=etag, key=key)

    async def set_enabled(
        self, name: FunctionName, enabled: bool, *, etag: str, key: RequestKey | None
    ) -> Function:
        """Allow or refuse new executions of a function. NotFoundError, AbortedError."""

        def change(function: Function) -> Function:
            if not enabled:
                return replace(function, state=FunctionState.DISABLED)
            deployed = function.active_revision > 0
            state = FunctionState.ACTIVE if deployed else FunctionState.UNDEPLOYED
            return replace(function, state=state)

        changed = await self.change(name, change, etag=etag, key=key)
        await self._instances.follow(name, changed.uid)
        return changed

    async def delete(
        self, name: FunctionName, *, etag: str, force: bool, key: RequestKey | None
    ) -> None:
        """Delete a function; `force` stops its executions first and deletes its schedules, too.

        NotFoundError, AbortedError, FailedPreconditionError.
        """

        async def do() -> None:
            while True:
                function = await self._functions.get(name)
                check_etag(function, etag)
                try:
                    return await self._delete(function, force=force, key=key)
                except AbortedError:
                    if etag:
                        raise

        async def repeat(_: Request) -> None:
            """Nothing is left to say."""

        await idempotency.once(self._repositories.requests, key, do, repeat)

    async def _delete(self, function: Function, *, force: bool, key: RequestKey | None) -> None:
        if force:
            # Disabled first, so that nothing new starts while the rest is stopped.
            function = await self.set_enabled(function.name, False, etag=function.etag, key=None)
            await self._executions.cancel_all(function.uid)
        await self._functions.delete(
            function.name,
            expected_etag=function.etag,
            with_schedules=force,
            request=idempotency.record(key),
        )
        await self._instances.follow(function.name, function.uid)

    async def change(
        self,
        name: FunctionName,
        change: Callable[[Function], Function],
        *,
        etag: str,
        key: RequestKey | None,
    ) -> Function:
        """Store what `change` makes of a function, again if somebody else wrote in between.

        With an `etag`, only if the function still has it. NotFoundError, AbortedError.
        """

        async def do() -> Function:
            while True:
                function = await self._functions.get(name)
                check_etag(function, etag)
                changed = replace(change(function), etag=new_id(), update_time=datetime.now(UTC))
                record = idempotency.record(key, function=changed)
                try:
                    await self._functions.update(
                        changed, expected_etag=function.etag, request=record
                    )
                except AbortedError:
                    continue  # with the caller's etag, the next look refuses
                return changed

        return await idempotency.once(self._repositories.requests, key, do, first_answer)

    async def _check_free(self, name: FunctionName) -> None:
        with suppress(NotFoundError):
            await self._functions.get(name)
            raise AlreadyExistsError(
                f"function '{name}' exists already: choose another name, or update it",
                reason="FUNCTION_EXISTS",
                metadata={"resource": str(name)},
            )


async def first_answer(recorded: Request) -> Function:
    """Return what the first request of this id was answered."""
    if recorded.function is None:
        raise AssertionError(f"{recorded.method} was recorded without its answer")
    return recorded.function
