"""Leases of executions: which server runs one, and whether another could go on with it."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

COLUMNS = (
    "lease_epoch INTEGER NOT NULL DEFAULT 0",
    "lease_owner TEXT NOT NULL DEFAULT ''",
    "lease_expire_time BIGINT",
    "input_given INTEGER NOT NULL DEFAULT 0",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for column in COLUMNS:
        db.execute_sql(f"ALTER TABLE executions ADD COLUMN {column}")
