"""Instances: what callers may ask about them, and which are to be there from the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.functions import Function, FunctionState, Revision
from skybridge_server.models.instances import InstanceRecord
from skybridge_server.models.names import FunctionName, InstanceName, RevisionName
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.pool.pool import Pool
from skybridge_server.services.registry import Registry

log = structlog.get_logger(__name__)


class Keeper(Protocol):
    """Keeps containers of functions, of some kind. Functions are told by their uid."""

    async def warm(self, function_uid: str, revision: Revision) -> None:
        """Make what a revision is to have ahead, and wait for it. FailedPreconditionError."""
        ...

    def dismiss(self, function_uid: str, revision: Revision) -> None:
        """Remove what was made ahead for a revision, unless it was activated."""
        ...

    def activate(self, function_uid: str, revision: Revision) -> None:
        """Keep what is of this revision, and of no other of the function."""
        ...

    def drain(self, function_uid: str) -> None:
        """Keep nothing of a function."""
        ...

    def forget(self, function_uid: str) -> None:
        """Keep nothing of a function that exists no more."""
        ...


class InstanceService:
    """All instances of one server, and what is created ahead of executions that have none."""

    def __init__(
        self, repositories: Repositories, pool: Pool, ahead: Ahead, registry: Registry
    ) -> None:
        self._repositories = repositories
        self._pool = pool
        self._ahead = ahead
        self._keepers: tuple[Keeper, ...] = (pool, ahead)
        self._registry = registry
        self._in_turn = asyncio.Lock()
        self._restoring: asyncio.Task[None] | None = None

    # -- in step with the functions -------------------------------------------------------------

    async def open(self) -> None:
        """Start what functions are to have ahead, in the background."""
        self._restoring = asyncio.create_task(self._restore())

    async def close(self, policy: ShutdownPolicy = ShutdownPolicy.CANCEL) -> None:
        """Remove all of it, or hand instances that do nothing over to the next start."""
        if self._restoring is not None:
            self._restoring.cancel()
            await asyncio.gather(self._restoring, return_exceptions=True)
        leave = policy is ShutdownPolicy.HANDOVER
        await asyncio.gather(self._pool.close(leave=leave), self._ahead.close())

    async def warm(self, function: Function, revision: Revision) -> None:
        """Start what a revision is to have ahead, and wait for it. FailedPreconditionError."""
        if function.state is not FunctionState.DISABLED:
            for keeper in self._keepers:
                await keeper.warm(function.uid, revision)

    def dismiss(self, function: Function, revision: Revision) -> None:
        """Remove what was started ahead for a revision, unless it was activated."""
        for keeper in self._keepers:
            keeper.dismiss(function.uid, revision)

    async def follow(self, name: FunctionName, uid: str) -> None:
        """Keep instances of what executions of a function run now, and of nothing else."""
        async with self._in_turn:  # what is read last is also said last
            change = await self._change(name, uid)
            for keeper in self._keepers:
                change(keeper)

    async def _change(self, name: FunctionName, uid: str) -> Callable[[Keeper], None]:
        """Return what those who keep something of a function are to do now."""
        try:
            function = await self._repositories.functions.get(name)
            if function.uid != uid:
                return lambda keeper: keeper.forget(uid)
            if function.state is not FunctionState.ACTIVE:
                return lambda keeper: keeper.drain(uid)
            active = RevisionName(name, function.active_revision)
            revision = await self._repositories.revisions.get(active)
        except NotFoundError:
            return lambda keeper: keeper.forget(uid)
        return lambda keeper: keeper.activate(uid, revision)

    async def _restore(self) -> None:
        try:
            for name in await self._repositories.functions.names():
                with suppress(NotFoundError):  # deleted meanwhile
                    await self.follow(name, (await self._repositories.functions.get(name)).uid)
        except SkybridgeError as error:
            log.warning("instances not started", detail=error.message)

    # -- for callers ----------------------------------------------------------------------------

    def list(
        self, namespace: str, function: FunctionName | None, page: PageRequest
    ) -> Page[InstanceRecord]:
        """Return a page of the instances of a namespace, or of one function, the oldest first."""
        after = str(page.after[0]) if page.after else ""
        found = [
            instance.record()
            for instance in self._pool
            if instance.name.namespace == namespace
            and function in {None, instance.revision.name.function}
            and instance.name.instance > after
        ]
        found.sort(key=lambda record: record.name)
        items = tuple(found[: page.size])
        more = len(found) > page.size
        return Page(items, (items[-1].name.instance,) if more else None)

    def get(self, name: InstanceName) -> InstanceRecord:
        """Return an instance. NotFoundError."""
        return self._pool.get(name).record()

    def stop(self, name: InstanceName, *, force: bool) -> InstanceRecord:
        """Let an instance take no more executions; `force` stops those that run. NotFoundError."""
        instance = self._pool.get(name)
        instance.retire(polite=True)
        if force:
            for active in self._registry:
                if active.ticket.seat is instance:
                    active.stop(FailureReason.CANCELLED, "its instance was stopped")
        return instance.record()
