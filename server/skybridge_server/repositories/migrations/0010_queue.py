"""The queue: executions that wait for a place in the store, in the order of their positions."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    "ALTER TABLE executions ADD COLUMN position BIGINT",
    "UPDATE executions SET position = id WHERE state = 1 AND not_before IS NULL",
    "DROP INDEX executions_waiting",
    (
        "CREATE INDEX executions_waiting ON executions (not_before) "
        'WHERE "not_before" IS NOT NULL AND "position" IS NULL'
    ),
    (
        "CREATE INDEX executions_queued ON executions (function_uid, position) "
        'WHERE "state" = 1 AND "lease_owner" = \'\' AND "position" IS NOT NULL'
    ),
    (
        "CREATE INDEX executions_held ON executions (function_uid) "
        'WHERE "state" < 5 AND ("state" > 1 OR "lease_owner" <> \'\')'
    ),
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
