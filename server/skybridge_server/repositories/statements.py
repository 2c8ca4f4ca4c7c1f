"""Statements that run for every execution: Peewee builds their SQL once, at import.

Building a query costs more than running it, see the benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from peewee import Expression, Field, Model, SqliteDatabase

_AT_ONCE = (64, 16, 4, 1)
"""Rows that one statement inserts: few kinds of statements, since each is kept compiled."""


def insert(table: type[Model], fields: Sequence[Field]) -> str:
    """Return the SQL that inserts one row; it takes the values in the order of `fields`."""
    sql: str = table.insert_many([[None] * len(fields)], fields=list(fields)).sql()[0]
    return sql


class Insert:
    """Inserts rows into a table, many by one statement."""

    def __init__(self, table: type[Model], fields: Sequence[Field]) -> None:
        """`fields`: in the order of the values of a row."""
        self._sql = {
            count: table.insert_many([[None] * len(fields)] * count, fields=list(fields)).sql()[0]
            for count in _AT_ONCE
        }

    def run(self, db: SqliteDatabase, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows as part of a change. sqlite3.Error."""
        execute = db.connection().execute  # Peewee's way around it costs as much as the statement
        start = 0
        for count, sql in self._sql.items():
            while len(rows) - start >= count:
                execute(sql, tuple(chain(*rows[start : start + count])))
                start += count

    def one(self, db: SqliteDatabase, row: tuple[Any, ...]) -> int:
        """Insert a row as part of a change, and return its id. sqlite3.Error."""
        row_id: int = db.connection().execute(self._sql[1], row).lastrowid
        return row_id


def update(table: type[Model], fields: Sequence[Field], where: Expression) -> str:
    """Return the SQL that updates rows: values in the order of `fields`, then those of `where`."""
    query = table.update(dict.fromkeys(fields)).where(where)
    sql: str = query.sql()[0]
    return sql


def delete(table: type[Model], where: Expression) -> str:
    """Return the SQL that deletes rows; it takes the values of `where`."""
    sql: str = table.delete().where(where).sql()[0]
    return sql


def select(fields: Sequence[Field], where: Expression, order_by: Field | None = None) -> str:
    """Return the SQL that reads `fields` of rows; it takes the values of `where`."""
    query = fields[0].model.select(*fields).where(where)
    sql: str = (query.order_by(order_by) if order_by else query).sql()[0]
    return sql


ANY = 0
"""Stands for a value that is bound when the statement runs."""
