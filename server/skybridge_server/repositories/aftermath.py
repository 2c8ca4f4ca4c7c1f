"""What the end of an execution leaves to do, as rows of its own."""

from __future__ import annotations

from typing import Any

from peewee import SqliteDatabase

from skybridge_server.models.aftermath import Aftermath
from skybridge_server.models.executions import Execution
from skybridge_server.repositories import delivery_rows, statements
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.tables import DeadLetterRow, DeliveryRow

ADD_DEAD_LETTER = statements.insert(
    DeadLetterRow, (DeadLetterRow.execution, DeadLetterRow.namespace, DeadLetterRow.end_time)
)

ADD_DELIVERY = statements.insert(
    DeliveryRow, (DeliveryRow.execution, *delivery_rows.FIXED, *delivery_rows.CHANGING)
)


def store(db: SqliteDatabase, row_id: int, ended: Execution, aftermath: Aftermath) -> None:
    """Store what follows from the end of an execution, as part of that change."""
    if aftermath.dead_letter and ended.end_time is not None:
        values: tuple[Any, ...] = (row_id, ended.name.namespace, from_time(ended.end_time))
        db.execute_sql(ADD_DEAD_LETTER, values)
    if aftermath.delivery is not None:
        delivery = aftermath.delivery
        fixed = delivery_rows.fixed_values(delivery)
        values = (row_id, *fixed, *delivery_rows.changing_values(delivery))
        db.execute_sql(ADD_DELIVERY, values)
