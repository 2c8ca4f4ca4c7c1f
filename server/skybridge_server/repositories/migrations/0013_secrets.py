"""Secrets, which functions find in files."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    """
    CREATE TABLE secrets (
        id INTEGER NOT NULL PRIMARY KEY,
        namespace TEXT NOT NULL,
        secret TEXT NOT NULL,
        sealed BLOB NOT NULL,
        value_bytes INTEGER NOT NULL,
        create_time BIGINT NOT NULL,
        update_time BIGINT NOT NULL,
        etag TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX secrets_namespace_secret ON secrets (namespace, secret)",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
