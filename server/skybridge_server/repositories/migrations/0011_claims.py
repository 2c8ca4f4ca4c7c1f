"""Claims in one statement: the lease alone says who still waits for its time."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    "DROP INDEX executions_waiting",
    (
        "CREATE INDEX executions_waiting ON executions (not_before) "
        'WHERE "state" = 1 AND "lease_owner" = \'\' AND "not_before" IS NOT NULL '
        'AND "position" IS NULL'
    ),
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
