"""Schedules of functions."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

TABLES = (
    """
    CREATE TABLE schedules (
        id INTEGER NOT NULL PRIMARY KEY,
        namespace TEXT NOT NULL,
        schedule TEXT NOT NULL,
        uid TEXT NOT NULL,
        function_id INTEGER NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
        timeout BIGINT,
        labels TEXT NOT NULL,
        cron TEXT NOT NULL,
        interval BIGINT,
        time_zone TEXT NOT NULL,
        overlap_policy INTEGER NOT NULL,
        catch_up_window BIGINT NOT NULL,
        jitter BIGINT NOT NULL,
        create_time BIGINT NOT NULL,
        update_time BIGINT NOT NULL,
        etag TEXT NOT NULL,
        paused INTEGER NOT NULL,
        next_time BIGINT,
        wake_time BIGINT,
        state_message TEXT NOT NULL,
        last_due_time BIGINT,
        last_execution TEXT,
        fired_count BIGINT NOT NULL,
        skipped_count BIGINT NOT NULL,
        missed_count BIGINT NOT NULL,
        input BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX schedules_namespace_schedule ON schedules (namespace, schedule)",
    "CREATE INDEX schedules_function ON schedules (function_id)",
    "CREATE INDEX schedules_wake_time ON schedules (wake_time)",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in TABLES:
        db.execute_sql(statement)
