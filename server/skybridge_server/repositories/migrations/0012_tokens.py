"""Tokens, by which callers are known."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    db.execute_sql(
        """
        CREATE TABLE tokens (
            token TEXT NOT NULL PRIMARY KEY,
            secret_hash BLOB NOT NULL,
            role INTEGER NOT NULL,
            namespaces TEXT NOT NULL,
            description TEXT NOT NULL,
            create_time BIGINT NOT NULL,
            expire_time BIGINT
        ) WITHOUT ROWID
        """
    )
