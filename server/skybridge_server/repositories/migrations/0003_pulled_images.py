"""Images that deployments pulled, so that they can be removed when no revision needs them."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    db.execute_sql(
        """
        CREATE TABLE pulled_images (
            runtime TEXT NOT NULL,
            image_id TEXT NOT NULL,
            reference TEXT NOT NULL,
            PRIMARY KEY (runtime, image_id, reference)
        ) WITHOUT ROWID
        """
    )
