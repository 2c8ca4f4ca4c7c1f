"""The first tables: functions, revisions, executions, their journals, idempotent requests."""

from __future__ import annotations

from peewee import SqliteDatabase
from playhouse.migrate import SchemaMigrator

TABLES = (
    """
    CREATE TABLE meta (
        key TEXT NOT NULL PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE functions (
        id INTEGER NOT NULL PRIMARY KEY,
        namespace TEXT NOT NULL,
        function TEXT NOT NULL,
        uid TEXT NOT NULL,
        spec TEXT NOT NULL,
        create_time BIGINT NOT NULL,
        update_time BIGINT NOT NULL,
        description TEXT NOT NULL,
        labels TEXT NOT NULL,
        state INTEGER NOT NULL,
        state_message TEXT NOT NULL,
        generation INTEGER NOT NULL,
        etag TEXT NOT NULL,
        active_revision INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX functions_namespace_function ON functions (namespace, function)",
    """
    CREATE TABLE function_labels (
        owner_id INTEGER NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (owner_id, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE revisions (
        id INTEGER NOT NULL PRIMARY KEY,
        function_id INTEGER NOT NULL REFERENCES functions (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        spec TEXT NOT NULL,
        image_id TEXT NOT NULL,
        image_digest TEXT NOT NULL,
        platform TEXT NOT NULL,
        image_bytes BIGINT NOT NULL,
        generation INTEGER NOT NULL,
        create_time BIGINT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX revisions_function_number ON revisions (function_id, number)",
    """
    CREATE TABLE executions (
        id INTEGER NOT NULL PRIMARY KEY,
        namespace TEXT NOT NULL,
        execution TEXT NOT NULL,
        function TEXT NOT NULL,
        function_uid TEXT NOT NULL,
        revision INTEGER NOT NULL,
        create_time BIGINT NOT NULL,
        timeout BIGINT,
        interactive INTEGER NOT NULL,
        traceparent TEXT NOT NULL,
        labels TEXT NOT NULL,
        state INTEGER NOT NULL,
        failure_reason INTEGER,
        failure_message TEXT,
        failure_signal INTEGER,
        exit_code INTEGER,
        stdout_bytes BIGINT NOT NULL,
        stderr_bytes BIGINT NOT NULL,
        last_sequence INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        cold_start INTEGER NOT NULL,
        queue_time BIGINT,
        startup_time BIGINT,
        run_time BIGINT,
        total_time BIGINT,
        cpu_time BIGINT,
        peak_memory_bytes BIGINT,
        oom_killed INTEGER NOT NULL,
        start_time BIGINT,
        end_time BIGINT
    )
    """,
    "CREATE UNIQUE INDEX executions_execution_namespace ON executions (execution, namespace)",
    "CREATE INDEX executions_namespace_time ON executions (namespace, create_time)",
    "CREATE INDEX executions_function_time ON executions (namespace, function, create_time)",
    "CREATE INDEX executions_unfinished ON executions (namespace, create_time) WHERE state < 5",
    "CREATE INDEX executions_unsuccessful ON executions (namespace, create_time) WHERE state > 5",
    """
    CREATE TABLE execution_labels (
        owner_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        namespace TEXT NOT NULL,
        create_time BIGINT NOT NULL,
        PRIMARY KEY (owner_id, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE INDEX execution_labels_value
    ON execution_labels (namespace, key, value, create_time)
    """,
    """
    CREATE TABLE inputs (
        execution_id INTEGER NOT NULL PRIMARY KEY REFERENCES executions (id) ON DELETE CASCADE,
        data BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE events (
        id INTEGER NOT NULL PRIMARY KEY,
        execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        time BIGINT NOT NULL,
        kind INTEGER NOT NULL,
        code INTEGER,
        stream INTEGER,
        offset BIGINT,
        length BIGINT,
        data BLOB
    )
    """,
    "CREATE UNIQUE INDEX events_execution_sequence ON events (execution_id, sequence)",
    """
    CREATE TABLE requests (
        method TEXT NOT NULL,
        request_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        create_time BIGINT NOT NULL,
        resource TEXT NOT NULL,
        answer TEXT,
        PRIMARY KEY (method, request_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX requests_create_time ON requests (create_time)",
)


def up(migrator: SchemaMigrator, db: SqliteDatabase) -> None:  # noqa: ARG001 - the runner's call
    for statement in TABLES:
        db.execute_sql(statement)
