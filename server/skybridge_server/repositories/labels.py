"""Filters by labels."""

from __future__ import annotations

from peewee import Expression, Model, fn

from skybridge_server.models.paging import LabelFilter


def has_label(labels: type[Model], owner: type[Model], wanted: LabelFilter) -> Expression:
    """Return the condition that rows of `owner` have a label in the table `labels`."""
    (reference,) = labels._meta.refs
    query = labels.select(1).where(reference == owner.id, labels.key == wanted.key)
    if wanted.value is not None:
        query = query.where(labels.value == wanted.value)
    return fn.EXISTS(query)
