"""Containers that are created ahead of the executions that start them.

A STDIO function has as many as its `scaling.min_instances` says: created, never started, so that
they may hold a network sandbox each, and otherwise no memory and no processor time. The execution
that takes one renames it to its own, and is found by that name from then on, as any other. What is
missing is made in the background, one after the other at each engine. Whatever goes wrong with
them, an execution can do without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from skybridge_server.contracts import stdio
from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    FailedPreconditionError,
    SkybridgeError,
    StaleContainerError,
)
from skybridge_server.models.functions import Revision
from skybridge_server.models.names import new_id
from skybridge_server.runtimes.base import Containers
from skybridge_server.services import labels
from skybridge_server.services.bell import Bell
from skybridge_server.services.engines import Engines
from skybridge_server.services.maker import Maker
from skybridge_server.services.time_limit import seconds

REPLACE_AFTER = 1.0
"""Seconds until one that was taken is replaced, if its execution takes longer than that: else the
engine answers the caller first."""
LONGEST_PAUSE = 60.0
"""Seconds at most between two tries to make what cannot be made."""
STOP_PATIENCE = 10.0
"""Seconds that a stop of the server waits for containers to be removed."""

_Key = tuple[str, int, datetime]
"""Uid of a function, number and time of a revision: two deployments may try the same number."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Shelf:
    """The containers of one revision."""

    revision: Revision
    wanted: int
    ready: dict[str, str] = field(default_factory=dict)
    """By their ids at the engine, the oldest first: what they are labelled with."""
    deploying: bool = False
    """Whether a deployment waits for them, or is about to activate them."""
    failures: int = 0
    """Tries that failed one after the other."""
    doubtful: bool = False
    """Whether one did not start, and none has since then: that they can be made is no success."""
    resting: bool = False
    error: SkybridgeError | None = None
    """Why the last one was not made."""
    changed: Bell = field(default_factory=Bell)

    @property
    def lacks(self) -> bool:
        return len(self.ready) < self.wanted


class Ahead:
    """All containers of one server that are made ahead."""

    def __init__(self, engines: Engines, maker: Maker, server_id: str) -> None:
        self._engines = engines
        self._maker = maker
        self._server_id = server_id
        self._shelves: dict[_Key, _Shelf] = {}
        self._active: dict[str, _Key] = {}
        self._ids: set[str] = set()
        self._filling: dict[str, asyncio.Task[None]] = {}
        """By engine: what one does not do holds up no other."""
        self._removals: set[asyncio.Task[None]] = set()
        self._closing = False
        self.taken = 0
        self.missed = 0
        engines.on_change(self.fill)

    def __len__(self) -> int:
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    # -- for executions -------------------------------------------------------------------------

    def take(self, function_uid: str, revision: Revision) -> str:
        """Return the id of a container of a revision, now the caller's; '' if there is none."""
        if not revision.spec.scaling.min_instances:
            return ""
        shelf = self._shelves.get(_key(function_uid, revision))
        if shelf is None or not shelf.ready:
            self.missed += 1
            return ""
        container_id = next(iter(shelf.ready))
        self._ids.discard(shelf.ready.pop(container_id))
        self.taken += 1
        asyncio.get_running_loop().call_later(REPLACE_AFTER, self.fill)
        return container_id

    @contextmanager
    def doubting(self, function_uid: str, revision: Revision) -> Iterator[None]:
        """Use one that was taken. If it does not start, make the others anew, too.

        StaleContainerError: another container may start.
        """
        shelf = self._shelves.get(_key(function_uid, revision))
        try:
            yield
        except (ContainerGoneError, ContainerStartError) as error:
            if shelf is not None:
                shelf.doubtful = True
                self._clear(shelf)
                self._rest(shelf, error)
            raise StaleContainerError(f"made ahead, it does not start: {error.message}") from error
        if shelf is not None and shelf.doubtful:
            shelf.doubtful, shelf.failures = False, 0

    def fill(self) -> None:
        """Make what is missing, in the background."""
        if self._closing:
            return
        for engine in {self._engine(shelf) for shelf in self._shelves.values()}:
            filling = self._filling.get(engine)
            if self._growing(engine) and (filling is None or filling.done()):
                self._filling[engine] = asyncio.create_task(self._fill(engine))

    # -- for deployments ------------------------------------------------------------------------

    async def warm(self, function_uid: str, revision: Revision) -> None:
        """Make what a revision is to have ahead, and wait for it; `dismiss` is to follow.

        FailedPreconditionError (reason INSTANCES_NOT_READY).
        """
        shelf = self._shelf(function_uid, revision)
        if shelf is None:
            return
        shelf.deploying, shelf.resting, shelf.error = True, False, None
        self.fill()
        limit = revision.spec.timeouts.queue + revision.spec.timeouts.start
        try:
            async with asyncio.timeout(limit.total_seconds()):
                while shelf.lacks and shelf.error is None:
                    await shelf.changed.wait()
        except TimeoutError as error:
            raise _not_ready(revision, f"it took longer than {seconds(limit)}") from error
        if shelf.error is not None:
            raise _not_ready(revision, shelf.error.message) from shelf.error

    def dismiss(self, function_uid: str, revision: Revision) -> None:
        """Remove what was made for a deployment, unless its revision was activated."""
        key = _key(function_uid, revision)
        shelf = self._shelves.get(key)
        if shelf is not None:
            shelf.deploying = False
            if self._active.get(function_uid) != key:
                self._remove_shelf(key)

    def activate(self, function_uid: str, revision: Revision) -> None:
        """Keep the containers of this revision, and of no other of the function."""
        self._active[function_uid] = _key(function_uid, revision)
        self._shelf(function_uid, revision)
        self._remove_others(function_uid)
        self.fill()

    def drain(self, function_uid: str) -> None:
        """Keep no container of a function."""
        self._active.pop(function_uid, None)
        self._remove_others(function_uid)

    def forget(self, function_uid: str) -> None:
        """Keep no container of a function that exists no more."""
        self.drain(function_uid)

    # -- for everybody --------------------------------------------------------------------------

    def owns(self, ahead: str) -> bool:
        """Tell whether a container, by its label, may still be needed, or is being made."""
        return ahead in self._ids

    def container_gone(self, container_id: str) -> None:
        """Hear from an engine that a container was removed."""
        for shelf in self._shelves.values():
            if container_id in shelf.ready:
                self._ids.discard(shelf.ready.pop(container_id))
                self.fill()

    async def close(self) -> None:
        """Remove all."""
        self._closing = True
        for filling in self._filling.values():
            filling.cancel()
        await asyncio.gather(*self._filling.values(), return_exceptions=True)
        for key in [*self._shelves]:
            self._remove_shelf(key)
        if self._removals:
            _, late = await asyncio.wait(self._removals, timeout=STOP_PATIENCE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- making them ----------------------------------------------------------------------------

    async def _fill(self, engine: str) -> None:
        while growing := self._growing(engine):
            for shelf in growing:
                if self._can_grow(shelf):
                    await self._make(shelf)

    def _engine(self, shelf: _Shelf) -> str:
        return shelf.revision.spec.runtime or self._engines.default

    def _growing(self, engine: str) -> list[_Shelf]:
        """Return the shelves at an engine for which more can be made."""
        shelves = self._shelves.values()
        return [each for each in shelves if self._engine(each) == engine and self._can_grow(each)]

    def _can_grow(self, shelf: _Shelf) -> bool:
        may = shelf.deploying or self._answers(shelf.revision.spec.runtime)
        return shelf.lacks and not shelf.resting and may

    def _answers(self, runtime: str) -> bool:
        try:
            self._engines.check(runtime)
        except SkybridgeError:
            return False  # its return is told
        return True

    async def _make(self, shelf: _Shelf) -> None:
        id_ = new_id()
        self._ids.add(id_)
        try:
            container_id = await self._create(shelf.revision, id_)
        except SkybridgeError as error:
            self._ids.discard(id_)
            self._rest(shelf, error)
        except Exception:
            log.exception("making a container ahead broke")
            self._ids.discard(id_)
            self._rest(shelf, SkybridgeError("internal error of the server"))
        else:
            shelf.error = None
            if not shelf.doubtful:
                shelf.failures = 0
            shelf.ready[container_id] = id_
            if not shelf.wanted:  # it was removed meanwhile
                self._clear(shelf)
            shelf.changed.ring()

    async def _create(self, revision: Revision, id_: str) -> str:
        return await self._maker.create(
            revision,
            f"skybridge-{revision.name.function.function}-ahead-{id_}",
            stdio.lasting_environment(revision.spec, revision.name),
            labels.of_ahead(self._server_id, revision.name, id_),
            ahead=True,
        )

    def _rest(self, shelf: _Shelf, error: SkybridgeError) -> None:
        """Try again later: executions do without until then."""
        if not shelf.failures:
            name = str(shelf.revision.name)
            log.warning("no containers made ahead", revision=name, detail=error.message)
        shelf.failures += 1
        shelf.error, shelf.resting = error, True
        pause = min(2.0**shelf.failures, LONGEST_PAUSE)
        asyncio.get_running_loop().call_later(pause, self._wake, shelf)
        shelf.changed.ring()

    def _wake(self, shelf: _Shelf) -> None:
        shelf.resting = False
        self.fill()

    # -- removing them --------------------------------------------------------------------------

    def _remove_others(self, function_uid: str) -> None:
        """Remove what is of a revision that is neither active nor being deployed."""
        for key, shelf in [*self._shelves.items()]:
            others = key[0] == function_uid and key != self._active.get(function_uid)
            if others and not shelf.deploying:
                self._remove_shelf(key)

    def _remove_shelf(self, key: _Key) -> None:
        shelf = self._shelves.pop(key)
        shelf.wanted = 0
        self._clear(shelf)

    def _clear(self, shelf: _Shelf) -> None:
        containers = self._engines.get(shelf.revision.spec.runtime).containers
        for container_id, id_ in shelf.ready.items():
            self._ids.discard(id_)
            self._spawn(_remove(containers, container_id))
        shelf.ready.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    def _shelf(self, function_uid: str, revision: Revision) -> _Shelf | None:
        """Return where the containers of a revision stand; None if it is to have none."""
        wanted = revision.spec.scaling.min_instances
        if revision.spec.contract.kind.warm or not wanted:
            return None
        return self._shelves.setdefault(_key(function_uid, revision), _Shelf(revision, wanted))


def _key(function_uid: str, revision: Revision) -> _Key:
    return function_uid, revision.name.number, revision.create_time


async def _remove(containers: Containers, container_id: str) -> None:
    try:
        await containers.remove(container_id)
    except SkybridgeError as error:  # it is found again by its label
        log.warning("container not removed", container=container_id, detail=error.message)


def _not_ready(revision: Revision, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"revision {revision.name.number} was not activated, its containers could not be created"
        f" ahead: {why}",
        reason="INSTANCES_NOT_READY",
    )
