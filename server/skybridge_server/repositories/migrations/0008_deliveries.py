"""Whom to tell of the end of executions."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE deliveries (
        uid TEXT NOT NULL PRIMARY KEY,
        execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        destination TEXT NOT NULL,
        create_time BIGINT NOT NULL,
        next_time BIGINT,
        state INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        message TEXT NOT NULL,
        told_namespace TEXT,
        told_execution TEXT,
        end_time BIGINT
    ) WITHOUT ROWID
    """,
    "CREATE INDEX deliveries_execution ON deliveries (execution_id)",
    "CREATE INDEX deliveries_pending ON deliveries (next_time) WHERE next_time IS NOT NULL",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
