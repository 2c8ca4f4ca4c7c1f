"""Executions that failed for good while nobody waited for them."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE dead_letters (
        execution_id INTEGER NOT NULL PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE,
        namespace TEXT NOT NULL,
        end_time BIGINT NOT NULL,
        redriven_as TEXT,
        redrive_time BIGINT
    )
    """,
    "CREATE INDEX dead_letters_namespace_end_time ON dead_letters (namespace, end_time)",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
