"""Forms of rows: nothing that has a value is left out."""

from __future__ import annotations

import pytest

from skybridge_server.repositories import forms
from skybridge_server.repositories.execution_rows import COLUMNS
from skybridge_server.repositories.forms import Form

NAMES = [column.name for column in COLUMNS]
FORMS = [forms.SUCCEEDED, forms.QUEUED]


def nulls_of(form: Form) -> set[str]:
    """Return the names of the columns that a form leaves out."""
    values = form.values((None,) * len(NAMES))
    assert values is not None
    return {name for name in NAMES if form.values(row_with(name)) is None}


def row_with(name: str) -> tuple[int | None, ...]:
    return tuple(1 if each == name else None for each in NAMES)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_with_a_value_too_many_has_another_form(form: Form) -> None:
    nulls = nulls_of(form)
    assert 10 < len(nulls) < len(NAMES)
    assert all(COLUMNS[NAMES.index(name)].null for name in nulls)
    for name in nulls:
        assert forms.fitting(form, row_with(name)) == (forms.ANY, row_with(name))


@pytest.mark.parametrize("form", FORMS)
def test_the_others_are_inserted_in_their_order(form: Form) -> None:
    nulls = nulls_of(form)
    row = tuple(None if name in nulls else name for name in NAMES)
    insert, values = forms.fitting(form, row)
    assert insert is form.insert
    assert values == tuple(name for name in NAMES if name not in nulls)
