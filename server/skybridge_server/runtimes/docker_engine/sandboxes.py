"""The pool of sandboxes: lends each to one container at a time, and makes as many as are missed.

Containers whose ports are to be reached need one of their own: they take it for good. These
sandboxes are lasting ones, for they have to outlive us together with their containers.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Hashable
from typing import Protocol

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.runtimes.docker_engine.sandbox import Condition, Sandbox

IDLE_SECONDS = 300
"""After this a sandbox that nobody needed goes."""
SELDOM_SECONDS = 300
"""One that is missed after such a time was missed by chance: it would go unused."""
REST_SECONDS = 10
"""Before the next try after a sandbox could not be made."""
CLOSE_SECONDS = 10
KNOWN_PROGRAMS = 1000

log = structlog.get_logger(__name__)


class Maker(Protocol):
    """Makes and removes what the pool lends; both may raise SkybridgeError."""

    async def make(self, name: str) -> Sandbox: ...

    async def take_over(self, container_id: str) -> Sandbox: ...

    async def remove(self, sandbox: Sandbox) -> None: ...


class Sandboxes:
    """At most `maximum` sandboxes, made in the background, one after the other, when missed often.

    Those that are taken do not count: there are as many as containers that need one.
    """

    def __init__(self, maker: Maker, maximum: int) -> None:
        self._maker = maker
        self._maximum = maximum
        self._names: set[str] = set()
        self._idle: dict[Sandbox, asyncio.TimerHandle] = {}  # the last one was idle last
        self._lent: dict[Sandbox, Hashable] = {}
        self._taken: set[Sandbox] = set()
        self._avoiding: dict[Hashable, None] = {}
        self._missing = 0
        self._making: asyncio.Task[None] | None = None
        self._resting_until = 0.0
        self._missed_at = -float(SELDOM_SECONDS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __contains__(self, name: str) -> bool:
        """Tell whether a container of this name is one of these sandboxes."""
        return name in self._names

    def lend(self, program: Hashable) -> Sandbox | None:
        """Lend a sandbox to a container that runs this program; None: do without this time."""
        if self._closed or program in self._avoiding:
            return None
        sandbox = self._pick()
        if sandbox is None:
            self._miss()
            return None
        self._lent[sandbox] = program
        return sandbox

    async def lend_soon(self, program: Hashable) -> Sandbox | None:
        """Do the same for who can wait until those that come back, or are made, are there."""
        self._missed_at = asyncio.get_running_loop().time()  # what is planned is not by chance
        if sandbox := self.lend(program):
            return sandbox
        if coming := self._tasks | ({self._making} if self._making else set()):
            await asyncio.wait(coming)
        return self.lend(program)

    async def take(self) -> Sandbox:
        """Give away a sandbox, made now if none is idle; to be discarded in the end.

        SkybridgeError. Where many are taken, the next one is to be idle.
        """
        sandbox = self._pick() or await self._make()
        self._taken.add(sandbox)
        if not self._idle and (self._making is None or self._making.done()):
            self._miss()
        return sandbox

    async def adopt(self, container_id: str) -> Sandbox:
        """Take over what an earlier process had taken, to be discarded. SkybridgeError."""
        sandbox = await self._maker.take_over(container_id)
        self._names.add(sandbox.name)
        self._taken.add(sandbox)
        sandbox.on_end(lambda: self.discard(sandbox))
        return sandbox

    async def leave(self, sandbox: Sandbox) -> None:
        """Let go of what was taken, for a later process to adopt."""
        self._taken.discard(sandbox)
        self._names.discard(sandbox.name)
        await sandbox.close()

    def give_back(self, sandbox: Sandbox) -> None:
        """Take back a sandbox none of whose container's processes is left."""
        if sandbox in self._lent:  # else it was lost in the meantime
            self._spawn(self._take_back(sandbox))

    def discard(self, sandbox: Sandbox) -> asyncio.Task[None] | None:
        """Take back a sandbox that nobody may use any more; return what removes it.

        None: it is on its way out already.
        """
        if sandbox in self._idle:
            self._idle.pop(sandbox).cancel()
        elif sandbox in self._lent:
            del self._lent[sandbox]
        elif sandbox in self._taken:
            self._taken.remove(sandbox)
        else:
            return None
        return self._spawn(self._remove(sandbox))

    def avoid(self, sandbox: Sandbox) -> None:
        """Lend none again to who has this one: it leaves traces, or does not start in it."""
        self._avoiding[self._lent.get(sandbox)] = None
        if len(self._avoiding) > KNOWN_PROGRAMS:
            del self._avoiding[next(iter(self._avoiding))]

    async def close(self) -> None:
        """Remove all, as far as that can be done within 10 s.

        What is left ends by itself or, if it is lasting, is found by its labels.
        """
        self._closed = True
        for sandbox in (*self._idle, *self._lent, *self._taken):
            self.discard(sandbox)
        tasks = {*self._tasks}
        if self._making:
            self._making.cancel()
            tasks.add(self._making)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- making them ----------------------------------------------------------------------------

    def _miss(self) -> None:
        """Make one more in the background, unless there are enough, or it is missed seldom."""
        now = asyncio.get_running_loop().time()
        seldom, self._missed_at = now - self._missed_at > SELDOM_SECONDS, now
        kept = len(self._names) - len(self._taken)
        enough = kept + self._missing >= self._maximum
        if self._closed or seldom or now < self._resting_until or enough:
            return
        self._missing += 1
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make_missing())

    async def _make_missing(self) -> None:
        while self._missing > 0:
            self._missing -= 1
            await self._keep_one()

    async def _keep_one(self) -> None:
        try:
            self._shelve(await self._make())
        except SkybridgeError as error:
            log.warning("no network sandbox made", detail=error.message)
            self._rest()
        except Exception:
            log.exception("making a network sandbox broke")
            self._rest()

    async def _make(self) -> Sandbox:
        name = f"skybridge-sandbox-{uuid.uuid4().hex}"
        self._names.add(name)
        try:
            sandbox = await self._maker.make(name)
        except BaseException:
            self._names.discard(name)
            raise
        sandbox.on_end(lambda: self.discard(sandbox))
        return sandbox

    def _rest(self) -> None:
        self._missing = 0
        self._resting_until = asyncio.get_running_loop().time() + REST_SECONDS

    # -- what becomes of them -------------------------------------------------------------------

    def _pick(self) -> Sandbox | None:
        """Return the one that was idle last, if any."""
        if not self._idle:
            return None
        sandbox, timer = self._idle.popitem()
        timer.cancel()
        return sandbox

    def _shelve(self, sandbox: Sandbox) -> None:
        loop = asyncio.get_running_loop()
        self._idle[sandbox] = loop.call_later(IDLE_SECONDS, self.discard, sandbox)

    async def _take_back(self, sandbox: Sandbox) -> None:
        condition = await sandbox.look()
        if sandbox in self._lent:  # else it was discarded meanwhile
            if condition is Condition.UNTOUCHED:
                del self._lent[sandbox]
                self._shelve(sandbox)
                return
            if condition is Condition.TOUCHED:
                self.avoid(sandbox)
            self.discard(sandbox)

    async def _remove(self, sandbox: Sandbox) -> None:
        try:
            await self._maker.remove(sandbox)
        except SkybridgeError as error:
            log.warning("network sandbox not removed", detail=error.message)
        finally:
            self._names.discard(sandbox.name)  # from now on it is anybody's to remove

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
