"""Images that deployments pulled, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

from peewee import SqliteDatabase

from skybridge_server.models.functions import PulledImage
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.tables import PulledImageRow, RevisionRow

COLUMNS = (PulledImageRow.runtime, PulledImageRow.image_id, PulledImageRow.reference)


class SqliteImages:
    """Images that engines have only because a deployment pulled them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, image: PulledImage) -> None:
        def job(db: SqliteDatabase) -> None:
            row = dict(zip(COLUMNS, _values_of(image), strict=True))
            PulledImageRow.insert(row).on_conflict_ignore().execute(db)

        await self._database.write(job)

    async def unused(self) -> Sequence[PulledImage]:
        def job(db: SqliteDatabase) -> list[PulledImage]:
            used = RevisionRow.select(RevisionRow.image_id)
            query = PulledImageRow.select(*COLUMNS).where(PulledImageRow.image_id.not_in(used))
            return [PulledImage(*row) for row in query.order_by(*COLUMNS).tuples().execute(db)]

        return await self._database.scan(job)

    async def delete(self, image: PulledImage) -> None:
        def job(db: SqliteDatabase) -> None:
            row = zip(COLUMNS, _values_of(image), strict=True)
            query = PulledImageRow.delete().where(*(column == value for column, value in row))
            query.execute(db)

        await self._database.write(job)


def _values_of(image: PulledImage) -> tuple[str, str, str]:
    return (image.runtime, image.image_id, image.reference)
