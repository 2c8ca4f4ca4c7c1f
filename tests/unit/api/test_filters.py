"""Filters and orders of lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.api.filters import execution_query, function_query
from skybridge_server.models.executions import ExecutionState
from skybridge_server.models.functions import FunctionState
from skybridge_server.models.paging import ExecutionQuery, FunctionQuery, LabelFilter
from skybridge_server.services.rules import LABEL_KEY
from skybridge_server.services.violations import Violations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("state = ACTIVE", {"state": FunctionState.ACTIVE}),
        ('state="DISABLED"', {"state": FunctionState.DISABLED}),
        ('name : "he"', {"name_prefix": "he"}),
        ("name:he-2", {"name_prefix": "he-2"}),
        ('name : ""', {"name_prefix": ""}),
        ('labels.team = "blue"', {"labels": (LabelFilter("team", "blue"),)}),
        ("labels.a.b/c : *", {"labels": (LabelFilter("a.b/c", None),)}),
        ('labels.team = "*"', {"labels": (LabelFilter("team", "*"),)}),
        (r'labels.team = "a \"b\" \\ AND c"', {"labels": (LabelFilter("team", r'a "b" \ AND c'),)}),
        (
            'state = ACTIVE AND labels.a = x AND labels.a : * AND name : "h"',
            {
                "state": FunctionState.ACTIVE,
                "name_prefix": "h",
                "labels": (LabelFilter("a", "x"), LabelFilter("a", None)),
            },
        ),
    ],
)
def test_filters_of_functions(text: str, expected: dict[str, Any]) -> None:
    with Violations() as wrong:
        assert function_query("ns", text, "", wrong) == FunctionQuery("ns", **expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('function = "hello"', {"function": "hello"}),
        ('function = "namespaces/ns/functions/hello"', {"function": "hello"}),
        ("state = FAILED", {"states": frozenset({ExecutionState.FAILED})}),
        ("labels.a : *", {"labels": (LabelFilter("a", None),)}),
        (
            'create_time >= "2026-01-31T00:00:00Z" AND create_time < "2026-02-01T01:00:00.5+01:00"',
            {
                "created_from": datetime(2026, 1, 31, tzinfo=UTC),
                "created_before": datetime(2026, 2, 1, 0, 0, 0, 500_000, tzinfo=UTC),
            },
        ),
    ],
)
def test_filters_of_executions(text: str, expected: dict[str, Any]) -> None:
    with Violations() as wrong:
        assert execution_query("ns", text, "", wrong) == ExecutionQuery("ns", **expected)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("state", 6, "expected one of"),
        ("state =", 8, "expected a value"),
        ("state = ACTIVE OR name : x", 16, "expected AND"),
        ("state = ACTIVE AND", 19, "expected a field"),
        ("state = ACTIVE AND = x", 20, "expected a field"),
        ("= ACTIVE", 1, "expected a field"),
        ('name : "open', 8, "expected a value"),
        (r'name : "\x"', 8, "expected a value"),
        ("state > ACTIVE", 1, "allowed are"),
        ("state != ACTIVE", 1, "allowed are"),
        ("state : *", 1, "allowed are"),
        ("state = active", 1, "UNDEPLOYED, ACTIVE, DISABLED"),
        ("name : *", 1, "allowed are"),
        ("name = hello", 1, "allowed are"),
        ('name : "He%"', 1, "prefix"),
        ("nonsense = 1", 1, "allowed are"),
        ("labels.team : blue", 1, "allowed are"),
        ("labels.team = *", 1, "allowed are"),
        ("labels. = x", 1, "key of a label"),
        ("labels.A = x", 1, "key of a label"),
        ("labels = x", 1, "allowed are"),
        ("(state = ACTIVE)", 1, "expected a field"),
        ("state = ACTIVE; drop", 15, "expected AND"),
        ("state = ACTIVE\x00", 15, "expected AND"),
        ("state = ACTIVE AND name : a AND state = ACTIVE", 33, "given twice"),
    ],
)
def test_wrong_filters_say_where_and_what(text: str, position: int, problem: str) -> None:
    wrong = Violations()
    function_query("ns", text, "", wrong)
    (violation,) = wrong
    assert violation.field == "filter"
    assert violation.description.startswith(f"at character {position}: ")
    assert problem in violation.description


@pytest.mark.parametrize(
    "text",
    [
        'create_time > "2026-01-31T00:00:00Z"',
        "create_time >= 2026",
        'create_time >= "2026-01-31"',
        'create_time >= "2026-01-31T00:00:00"',
        'create_time >= "2026-13-31T00:00:00Z"',
        'create_time >= "0001-01-01T00:00:00+23:59"',
        'create_time >= "9999-12-31T23:59:59-23:59"',
        'create_time >= "2026-W05-1T00:00:00Z"',
        'function = "namespaces/other/functions/hello"',
        'function = "../hello"',
        "function : he",
        "state = ACTIVE",
        'create_time < "2026-01-31T00:00:00Z" AND create_time < "2026-01-31T00:00:00Z"',
    ],
)
def test_wrong_filters_of_executions(text: str) -> None:
    wrong = Violations()
    execution_query("ns", text, "", wrong)
    assert [violation.field for violation in wrong] == ["filter"]


def test_all_wrong_terms_are_named() -> None:
    wrong = Violations()
    function_query("ns", "state = x AND foo = 1 AND labels.A : *", "", wrong)
    assert [v.description.partition(":")[0] for v in wrong] == [
        "at character 1",
        "at character 15",
        "at character 27",
    ]


def test_a_filter_has_at_most_1024_characters() -> None:
    wrong = Violations()
    function_query("ns", "state = ACTIVE" + " " * 1010, "", wrong)
    assert not list(wrong)
    function_query("ns", "state = ACTIVE" + " " * 1011, "", wrong)
    assert [violation.field for violation in wrong] == ["filter"]


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "state",
                "=",
                " ",
                "AND",
                '"',
                "\\",
                "*",
                ":",
                "labels.a",
                "ACTIVE",
                "create_time",
                ">=",
            ]
        )
    ).map("".join)
)
def test_no_text_breaks_it(text: str) -> None:
    wrong = Violations()
    function_query("ns", text, text, wrong)
    execution_query("ns", text, text, wrong)
    assert {violation.field for violation in wrong} <= {"filter", "order_by"}


@given(st.from_regex(LABEL_KEY, fullmatch=True), st.text(max_size=200))
def test_any_label_can_be_asked_for(key: str, value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    with Violations() as wrong:
        query = function_query("ns", f'labels.{key} = "{quoted}"', "", wrong)
    assert query.labels == (LabelFilter(key, value),)


@pytest.mark.parametrize(
    ("order_by", "field", "descending"),
    [
        ("", "name", False),
        ("name", "name", False),
        ("name desc", "name", True),
        (" create_time  desc ", "create_time", True),
        ("update_time", "update_time", False),
    ],
)
def test_orders(order_by: str, field: str, descending: bool) -> None:
    with Violations() as wrong:
        query = function_query("ns", "", order_by, wrong)
    assert (query.order_by, query.descending) == (field, descending)


@pytest.mark.parametrize("order_by", ["uid", "name asc", "name, uid", "name desc desc", "DESC"])
def test_wrong_orders(order_by: str) -> None:
    wrong = Violations()
    function_query("ns", "", order_by, wrong)
    assert [violation.field for violation in wrong] == ["order_by"]


def test_executions_come_newest_first_unless_asked_otherwise() -> None:
    with Violations() as wrong:
        assert execution_query("ns", "", "", wrong).descending
        assert execution_query("ns", "", "create_time desc", wrong).descending
        assert not execution_query("ns", "", "create_time", wrong).descending
    execution_query("ns", "", "name", wrong)
    assert [violation.field for violation in wrong] == ["order_by"]
