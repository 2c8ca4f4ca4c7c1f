"""Takes over instances that an earlier process left: those that did nothing, and are needed.

All others are removed by the sweeper, which therefore waits for this.
"""

from __future__ import annotations

import asyncio

import structlog

from skybridge_server.errors import NotFoundError, SkybridgeError
from skybridge_server.models.functions import FunctionState, Revision
from skybridge_server.models.names import RevisionName
from skybridge_server.repositories.base import Repositories
from skybridge_server.runtimes.base import ContainerRecord
from skybridge_server.services import labels
from skybridge_server.services.engines import Engines
from skybridge_server.services.pool.marks import Left, Marks
from skybridge_server.services.pool.pool import Pool

AT_ONCE = 8
"""An engine does no more at once, and each has but a moment."""

log = structlog.get_logger(__name__)


class Adoption:
    """Goes over each engine once, when it first answers."""

    def __init__(
        self,
        repositories: Repositories,
        engines: Engines,
        pool: Pool,
        marks: Marks,
        server_id: str,
    ) -> None:
        self._repositories = repositories
        self._engines = engines
        self._pool = pool
        self._marks = marks
        self._server_id = server_id
        self._places = asyncio.Semaphore(AT_ONCE)
        self._unseen = {status.name for status in engines.status()}

    async def run(self, engine: str) -> None:
        """Take over what an engine has, and return once all of it is ready, or given up."""
        if engine not in self._unseen:
            return
        self._unseen.discard(engine)
        try:
            if self._marks.left:
                taken = await asyncio.gather(*map(self._take_over, await self._found(engine)))
                log.info("instances taken over", count=sum(taken), runtime=engine)
        except SkybridgeError as error:
            log.warning("instances not taken over", runtime=engine, detail=error.message)
        except Exception:
            log.exception("taking instances over broke", runtime=engine)  # others are started
        self._marks.decided.add(engine)
        if not self._unseen:
            for left in [*self._marks.left.values()]:
                self._marks.adopt(left).free()

    async def _found(self, engine: str) -> list[tuple[Left, ContainerRecord]]:
        """Return those of which an engine has the container, the oldest first."""
        containers = self._engines.get(engine).containers
        records = await containers.list(labels.of_server(self._server_id))
        by_name = {each.labels.get(labels.INSTANCE, ""): each for each in records if each.running}
        by_id = {name.rpartition("/")[2]: record for name, record in by_name.items()}
        return [
            (left, by_id[instance])
            for instance, left in sorted(self._marks.left.items())
            if instance in by_id
        ]

    async def _take_over(self, found: tuple[Left, ContainerRecord]) -> bool:
        left, record = found
        async with self._places:
            revision = await self._revision(left, record)
            if revision is None:
                return False
            mark = self._marks.adopt(left)
            uid = left.facts.function_uid
            return await self._pool.adopt(uid, revision, left, mark, record.id)

    async def _revision(self, left: Left, record: ContainerRecord) -> Revision | None:
        """Return the revision of an instance, if executions would be given to it now."""
        facts, name = left.facts, labels.function_of(record.labels)
        try:
            function = await self._repositories.functions.get(name)
            revision = await self._repositories.revisions.get(RevisionName(name, facts.revision))
        except NotFoundError:
            return None
        except SkybridgeError as error:
            log.warning("instance not taken over", container=record.name, detail=error.message)
            return None
        current = (
            function.uid == facts.function_uid
            and function.state is FunctionState.ACTIVE
            and function.active_revision == facts.revision
            and revision.create_time == facts.revision_time
        )
        return revision if current else None
