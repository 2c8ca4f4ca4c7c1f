"""What executions on kept instances have: the instance, its initialisation, what went with data."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

COLUMNS = (
    "instance TEXT NOT NULL DEFAULT ''",
    "init_time BIGINT",
    "asked TEXT NOT NULL DEFAULT ''",
    "answered TEXT NOT NULL DEFAULT ''",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for column in COLUMNS:
        db.execute_sql(f"ALTER TABLE executions ADD COLUMN {column}")
