"""Filters by labels."""

from __future__ import annotations

from peewee import Field, Function, fn

from skybridge_server.models.paging import LabelFilter
from skybridge_server.repositories.tables import ExecutionLabelRow, FunctionLabelRow


def has_label(
    labels: type[FunctionLabelRow | ExecutionLabelRow], owner: Field, wanted: LabelFilter
) -> Function:
    """Return the condition that rows with the id `owner` have a label."""
    query = labels.select(1).where(labels.owner == owner, labels.key == wanted.key)
    if wanted.value is not None:
        query = query.where(labels.value == wanted.value)
    return fn.EXISTS(query)
