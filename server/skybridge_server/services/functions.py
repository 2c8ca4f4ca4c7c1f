"""Functions: creates, changes and deletes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from skybridge_server.errors import AbortedError, AlreadyExistsError
from skybridge_server.models.functions import Function, FunctionState
from skybridge_server.models.names import FunctionName, new_id
from skybridge_server.models.paging import FunctionQuery, Page, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.requests import FunctionDraft, RequestKey


class Executions(Protocol):
    """What is needed of executions to delete a function."""

    async def cancel_all(self, function_uid: str) -> None:
        """Stop all executions of a function, and wait until they have ended."""
        ...


class FunctionService:
    """All functions of one server."""

    def __init__(self, repositories: Repositories, executions: Executions) -> None:
        self._repositories = repositories
        self._functions = repositories.functions
        self._executions = executions

    async def create(
        self,
        name: FunctionName,
        draft: FunctionDraft,
        *,
        key: RequestKey | None,
        validate_only: bool,
    ) -> Function:
        """Create a function. AlreadyExistsError."""
        if (first := await self._first_answer(key)) is not None:
            return first
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
            return function
        try:
            await self._functions.create(function, idempotency.record(key, function=function))
        except AlreadyExistsError:
            if (first := await self._first_answer(key)) is not None:
                return first
            raise
        return function

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

        return await self.change(name, change, etag=etag, key=key)

    async def delete(
        self, name: FunctionName, *, etag: str, force: bool, key: RequestKey | None
    ) -> None:
        """Delete a function; `force` stops its executions first.

        NotFoundError, AbortedError, FailedPreconditionError.
        """
        if await idempotency.find(self._repositories.requests, key) is not None:
            return
        function = await self._functions.get(name)
        check_etag(function, etag)
        if force:
            # Disabled first, so that nothing new starts while the rest is stopped.
            function = await self.set_enabled(name, False, etag=function.etag, key=None)
            await self._executions.cancel_all(function.uid)
        await self._functions.delete(
            name, expected_etag=function.etag, request=idempotency.record(key)
        )

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
        if (first := await self._first_answer(key)) is not None:
            return first
        while True:
            function = await self._functions.get(name)
            check_etag(function, etag)
            changed = replace(change(function), etag=new_id(), update_time=datetime.now(UTC))
            record = idempotency.record(key, function=changed)
            try:
                await self._functions.update(changed, expected_etag=function.etag, request=record)
            except AbortedError:
                continue  # with the caller's etag, the next look refuses
            except AlreadyExistsError:
                if (first := await self._first_answer(key)) is not None:
                    return first
                raise
            return changed

    async def _first_answer(self, key: RequestKey | None) -> Function | None:
        recorded = await idempotency.find(self._repositories.requests, key)
        return None if recorded is None else recorded.function


def check_etag(function: Function, etag: str) -> None:
    """Raise AbortedError unless `etag` is empty or the function's."""
    if etag and etag != function.etag:
        raise AbortedError(
            f"function '{function.name}' was changed since etag {etag}: get it again, then repeat",
            metadata={"etag": function.etag},
        )
