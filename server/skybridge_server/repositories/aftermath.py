"""What the end of an execution leaves to do, as rows of its own."""

from __future__ import annotations

from peewee import SqliteDatabase

from skybridge_server.models.aftermath import Aftermath
from skybridge_server.models.executions import Execution
from skybridge_server.repositories import statements
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.tables import DeadLetterRow

ADD_DEAD_LETTER = statements.insert(
    DeadLetterRow, (DeadLetterRow.execution, DeadLetterRow.namespace, DeadLetterRow.end_time)
)


def store(db: SqliteDatabase, row_id: int, ended: Execution, aftermath: Aftermath) -> None:
    """Store what follows from the end of an execution, as part of that change."""
    if aftermath.dead_letter and ended.end_time is not None:
        values = (row_id, ended.name.namespace, from_time(ended.end_time))
        db.execute_sql(ADD_DEAD_LETTER, values)
