"""Queries that list executions, each by an index that has its rows in order already."""

from __future__ import annotations

from typing import Any, TypeAlias

from peewee import Expression, Field, ModelSelect, Tuple

from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.paging import Cursor, ExecutionQuery, LabelFilter, PageRequest
from skybridge_server.repositories import execution_rows
from skybridge_server.repositories.codec import from_time
from skybridge_server.repositories.labels import has_label
from skybridge_server.repositories.tables import (
    UNFINISHED,
    UNSUCCESSFUL,
    ExecutionLabelRow,
    ExecutionRow,
)

Query: TypeAlias = "ModelSelect[ExecutionRow]"  # generic for checkers only


def listing(query: ExecutionQuery, page: PageRequest) -> Query:
    """Return the query for a page, and one row more: its sort key, then the execution's columns."""
    leading = next((label for label in query.labels if label.value is not None), None)
    select, keys = _by_time(query) if leading is None else _by_label(query, leading)
    select = _filtered(select, query, keys[0])
    if page.after:
        key, after = Tuple(*keys), Tuple(*page.after)
        select = select.where(key < after if query.descending else key > after)
    order = [key.desc() if query.descending else key.asc() for key in keys]
    return select.order_by(*order).limit(page.size + 1)


def cursor_of(row: tuple[Any, ...]) -> Cursor:
    return row[:2]


def _by_time(query: ExecutionQuery) -> tuple[Query, tuple[Field, Field]]:
    keys = (ExecutionRow.create_time, ExecutionRow.id)
    select = ExecutionRow.select(*keys, *execution_rows.COLUMNS)
    return select.where(ExecutionRow.namespace == query.namespace), keys


def _by_label(query: ExecutionQuery, label: LabelFilter) -> tuple[Query, tuple[Field, Field]]:
    """Walk along a label: executions that have it may be few among many."""
    keys = (ExecutionLabelRow.create_time, ExecutionLabelRow.owner)
    select = ExecutionRow.select(*keys, *execution_rows.COLUMNS).join(ExecutionLabelRow)
    return select.where(
        ExecutionLabelRow.namespace == query.namespace,
        ExecutionLabelRow.key == label.key,
        ExecutionLabelRow.value == label.value,
    ), keys


def _filtered(select: Query, query: ExecutionQuery, create_time: Field) -> Query:
    if query.function:
        select = select.where(ExecutionRow.function == query.function)
    if query.states:
        select = select.where(*_in_states(query.states))
    if query.created_from is not None:
        select = select.where(create_time >= from_time(query.created_from))
    if query.created_before is not None:
        select = select.where(create_time < from_time(query.created_before))
    for label in query.labels:
        select = select.where(has_label(ExecutionLabelRow, ExecutionRow.id, label))
    return select


def _in_states(states: frozenset[ExecutionState]) -> list[Expression]:
    """Return the condition, said twice where a partial index knows these states."""
    conditions: list[Any] = [ExecutionRow.state.in_(sorted(states))]
    if all(not state.final for state in states):
        conditions.append(UNFINISHED)
    if all(state > ExecutionState.SUCCEEDED for state in states):
        conditions.append(UNSUCCESSFUL)
    return conditions
