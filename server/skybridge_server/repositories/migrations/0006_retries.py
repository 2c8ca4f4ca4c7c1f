"""Executions that wait for their time, and the attempts that others followed."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

STATEMENTS = (
    "ALTER TABLE executions ADD COLUMN background INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE executions ADD COLUMN due_time BIGINT",
    "ALTER TABLE executions ADD COLUMN not_before BIGINT",
    "CREATE INDEX executions_waiting ON executions (not_before) WHERE not_before IS NOT NULL",
    """
    CREATE TABLE attempts (
        execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        failure_reason INTEGER NOT NULL,
        failure_message TEXT NOT NULL,
        failure_signal INTEGER NOT NULL,
        exit_code INTEGER,
        stdout_bytes BIGINT NOT NULL,
        stderr_bytes BIGINT NOT NULL,
        last_sequence INTEGER NOT NULL,
        cold_start INTEGER NOT NULL,
        queue_time BIGINT,
        startup_time BIGINT,
        run_time BIGINT,
        total_time BIGINT,
        cpu_time BIGINT,
        peak_memory_bytes BIGINT,
        oom_killed INTEGER NOT NULL,
        start_time BIGINT,
        end_time BIGINT NOT NULL,
        PRIMARY KEY (execution_id, number)
    ) WITHOUT ROWID
    """,
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in STATEMENTS:
        db.execute_sql(statement)
