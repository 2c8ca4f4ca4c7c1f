"""The tables. Times and durations are integer microseconds, enums their numbers (see codec.py).

Models know no database: every query is executed with one (`query.execute(database)`), so that
several stores can be open in one process.
"""

from __future__ import annotations

from peewee import (
    SQL,
    AutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)


class MetaRow(Model):
    """Facts about the store itself: `server_id`."""

    key = TextField(primary_key=True)
    value = TextField()

    class Meta:
        table_name = "meta"
        without_rowid = True


class FunctionRow(Model):
    """A function; `labels` is JSON here for reading and a table for searching."""

    id = AutoField()
    namespace = TextField()
    function = TextField()
    uid = TextField()
    spec = TextField()
    create_time = BigIntegerField()
    update_time = BigIntegerField()
    description = TextField()
    labels = TextField()
    state = IntegerField()
    state_message = TextField()
    generation = IntegerField()
    etag = TextField()
    active_revision = IntegerField()

    class Meta:
        table_name = "functions"
        indexes = ((("namespace", "function"), True),)


class FunctionLabelRow(Model):
    """One label of a function."""

    owner = ForeignKeyField(FunctionRow, on_delete="CASCADE", index=False)
    key = TextField()
    value = TextField()

    class Meta:
        table_name = "function_labels"
        primary_key = CompositeKey("owner", "key")
        without_rowid = True


class RevisionRow(Model):
    """A revision of a function that exists."""

    id = AutoField()
    function = ForeignKeyField(FunctionRow, on_delete="CASCADE", index=False)
    number = IntegerField()
    spec = TextField()
    image_id = TextField()
    image_digest = TextField()
    platform = TextField()
    image_bytes = BigIntegerField()
    generation = IntegerField()
    create_time = BigIntegerField()

    class Meta:
        table_name = "revisions"
        indexes = ((("function", "number"), True),)


DISCARDED = ""


class ExecutionRow(Model):
    """An execution. It outlives its function, so it refers to it by name and uid.

    Sums over a function use the index that lists its executions. One that is being deleted lies in
    the namespace DISCARDED, where nobody looks, until its journal is erased.
    """

    id = AutoField()
    namespace = TextField()
    execution = TextField()
    function = TextField()
    function_uid = TextField()
    revision = IntegerField()
    create_time = BigIntegerField()
    timeout = BigIntegerField(null=True)
    interactive = BooleanField()
    traceparent = TextField()
    labels = TextField()
    background = BooleanField(constraints=[SQL("DEFAULT 0")])
    due_time = BigIntegerField(null=True)
    not_before = BigIntegerField(null=True)
    position = BigIntegerField(null=True)
    state = IntegerField()
    failure_reason = IntegerField(null=True)
    failure_message = TextField(null=True)
    failure_signal = IntegerField(null=True)
    exit_code = IntegerField(null=True)
    stdout_bytes = BigIntegerField()
    stderr_bytes = BigIntegerField()
    last_sequence = IntegerField()
    attempt = IntegerField()
    cold_start = BooleanField()
    queue_time = BigIntegerField(null=True)
    startup_time = BigIntegerField(null=True)
    run_time = BigIntegerField(null=True)
    total_time = BigIntegerField(null=True)
    cpu_time = BigIntegerField(null=True)
    peak_memory_bytes = BigIntegerField(null=True)
    oom_killed = BooleanField()
    start_time = BigIntegerField(null=True)
    end_time = BigIntegerField(null=True)
    lease_epoch = IntegerField()
    lease_owner = TextField()
    lease_expire_time = BigIntegerField(null=True)
    input_given = BooleanField()
    instance = TextField()
    init_time = BigIntegerField(null=True)
    asked = TextField()
    answered = TextField()

    class Meta:
        table_name = "executions"
        indexes = (
            (("execution", "namespace"), True),
            (("namespace", "create_time"), False),
            (("namespace", "function", "create_time"), False),
        )


# The few among many: those that have not ended, and those that did not succeed. Written out, since
# SQLite uses a partial index only where it sees the same words.
UNFINISHED = SQL('"state" < 5')
UNSUCCESSFUL = SQL('"state" > 5')

_UNCLAIMED = '"state" = 1 AND "lease_owner" = \'\''
WAITING = SQL(f'{_UNCLAIMED} AND "not_before" IS NOT NULL AND "position" IS NULL')
"""Those that wait for their time, and that no server has taken yet."""
QUEUED = SQL(f'{_UNCLAIMED} AND "position" IS NOT NULL')
"""Those that wait for a place, and that no server has taken yet."""
HELD = SQL('"state" < 5 AND ("state" > 1 OR "lease_owner" <> \'\')')
"""Those that some server has taken, or had before it died."""

for name, condition in (("unfinished", UNFINISHED), ("unsuccessful", UNSUCCESSFUL)):
    ExecutionRow.add_index(
        ExecutionRow.index(
            ExecutionRow.namespace,
            ExecutionRow.create_time,
            name=f"executions_{name}",
            where=condition,
        )
    )


ExecutionRow.add_index(
    ExecutionRow.index(ExecutionRow.not_before, name="executions_waiting", where=WAITING)
)
ExecutionRow.add_index(
    ExecutionRow.index(
        ExecutionRow.function_uid, ExecutionRow.position, name="executions_queued", where=QUEUED
    )
)
ExecutionRow.add_index(
    ExecutionRow.index(ExecutionRow.function_uid, name="executions_held", where=HELD)
)


class ExecutionLabelRow(Model):
    """One label of an execution; it repeats what lists are sorted by."""

    owner = ForeignKeyField(ExecutionRow, on_delete="CASCADE", index=False)
    key = TextField()
    value = TextField()
    namespace = TextField()
    create_time = BigIntegerField()

    class Meta:
        table_name = "execution_labels"
        primary_key = CompositeKey("owner", "key")
        without_rowid = True
        indexes = ((("namespace", "key", "value", "create_time"), False),)


class InputRow(Model):
    """The input of an execution, if it has any."""

    execution = ForeignKeyField(ExecutionRow, on_delete="CASCADE", primary_key=True)
    data = BlobField()

    class Meta:
        table_name = "inputs"


class EventRow(Model):
    """One event of a journal. A result has no columns of its own: the execution's row says it.

    `code` is a state or the reason of a gap; `length` counts the bytes of `data` or of the gap, and
    is the attempt of a state unless that is the first.
    """

    id = AutoField()
    execution = ForeignKeyField(ExecutionRow, on_delete="CASCADE", index=False)
    sequence = IntegerField()
    time = BigIntegerField()
    kind = IntegerField()
    code = IntegerField(null=True)
    stream = IntegerField(null=True)
    offset = BigIntegerField(null=True)
    length = BigIntegerField(null=True)
    data = BlobField(null=True)

    class Meta:
        table_name = "events"
        indexes = ((("execution", "sequence"), True),)


class AttemptRow(Model):
    """An attempt of an execution that another one followed; the last is in the execution's row."""

    execution = ForeignKeyField(ExecutionRow, on_delete="CASCADE", index=False)
    number = IntegerField()
    failure_reason = IntegerField()
    failure_message = TextField()
    failure_signal = IntegerField()
    exit_code = IntegerField(null=True)
    stdout_bytes = BigIntegerField()
    stderr_bytes = BigIntegerField()
    last_sequence = IntegerField()
    cold_start = BooleanField()
    queue_time = BigIntegerField(null=True)
    startup_time = BigIntegerField(null=True)
    run_time = BigIntegerField(null=True)
    total_time = BigIntegerField(null=True)
    cpu_time = BigIntegerField(null=True)
    peak_memory_bytes = BigIntegerField(null=True)
    oom_killed = BooleanField()
    start_time = BigIntegerField(null=True)
    end_time = BigIntegerField()

    class Meta:
        table_name = "attempts"
        primary_key = CompositeKey("execution", "number")
        without_rowid = True


class DeadLetterRow(Model):
    """An execution that failed for good; it repeats what lists are sorted by."""

    execution = ForeignKeyField(ExecutionRow, on_delete="CASCADE", primary_key=True)
    namespace = TextField()
    end_time = BigIntegerField()
    redriven_as = TextField(null=True)
    redrive_time = BigIntegerField(null=True)

    class Meta:
        table_name = "dead_letters"
        indexes = ((("namespace", "end_time"), False),)


class DeliveryRow(Model):
    """Telling a destination, which is JSON, of the end of an execution."""

    uid = TextField(primary_key=True)
    execution = ForeignKeyField(ExecutionRow, on_delete="CASCADE")
    destination = TextField()
    create_time = BigIntegerField()
    next_time = BigIntegerField(null=True)
    state = IntegerField()
    attempts = IntegerField()
    message = TextField()
    told_namespace = TextField(null=True)
    told_execution = TextField(null=True)
    end_time = BigIntegerField(null=True)

    class Meta:
        table_name = "deliveries"
        without_rowid = True


PENDING = SQL('"next_time" IS NOT NULL')

DeliveryRow.add_index(
    DeliveryRow.index(DeliveryRow.next_time, name="deliveries_pending", where=PENDING)
)


class ScheduleRow(Model):
    """A schedule of a function that exists. `wake_time` is what the scheduler looks for."""

    id = AutoField()
    namespace = TextField()
    schedule = TextField()
    uid = TextField()
    function = ForeignKeyField(FunctionRow, on_delete="CASCADE")
    timeout = BigIntegerField(null=True)
    labels = TextField()
    cron = TextField()
    interval = BigIntegerField(null=True)
    time_zone = TextField()
    overlap_policy = IntegerField()
    catch_up_window = BigIntegerField()
    jitter = BigIntegerField()
    create_time = BigIntegerField()
    update_time = BigIntegerField()
    etag = TextField()
    paused = BooleanField()
    next_time = BigIntegerField(null=True)
    wake_time = BigIntegerField(null=True, index=True)
    state_message = TextField()
    last_due_time = BigIntegerField(null=True)
    last_execution = TextField(null=True)
    fired_count = BigIntegerField()
    skipped_count = BigIntegerField()
    missed_count = BigIntegerField()
    input = BlobField()

    class Meta:
        table_name = "schedules"
        indexes = ((("namespace", "schedule"), True),)


class RequestRow(Model):
    """An idempotent request; `answer` is a function as JSON."""

    method = TextField()
    request_id = TextField()
    fingerprint = TextField()
    create_time = BigIntegerField(index=True)
    resource = TextField()
    answer = TextField(null=True)

    class Meta:
        table_name = "requests"
        primary_key = CompositeKey("method", "request_id")
        without_rowid = True


class PulledImageRow(Model):
    """An image that an engine has only because a deployment pulled it."""

    runtime = TextField()
    image_id = TextField()
    reference = TextField()

    class Meta:
        table_name = "pulled_images"
        primary_key = CompositeKey("runtime", "image_id", "reference")
        without_rowid = True


class TokenRow(Model):
    """A token; `namespaces` is a JSON list of their ids, empty for all."""

    token = TextField(primary_key=True)
    secret_hash = BlobField()
    role = IntegerField()
    namespaces = TextField()
    description = TextField()
    create_time = BigIntegerField()
    expire_time = BigIntegerField(null=True)

    class Meta:
        table_name = "tokens"
        without_rowid = True


class SecretRow(Model):
    """A secret; `sealed` is its value, encrypted with a key that is not in the database."""

    id = AutoField()
    namespace = TextField()
    secret = TextField()
    sealed = BlobField()
    value_bytes = IntegerField()
    create_time = BigIntegerField()
    update_time = BigIntegerField()
    etag = TextField()

    class Meta:
        table_name = "secrets"
        indexes = ((("namespace", "secret"), True),)


TABLES: tuple[type[Model], ...] = (
    MetaRow,
    FunctionRow,
    FunctionLabelRow,
    RevisionRow,
    ExecutionRow,
    ExecutionLabelRow,
    InputRow,
    EventRow,
    AttemptRow,
    DeadLetterRow,
    DeliveryRow,
    ScheduleRow,
    RequestRow,
    PulledImageRow,
    TokenRow,
    SecretRow,
)
