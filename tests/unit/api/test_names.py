"""Resource names in requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.api import names
from skybridge_server.models.names import ID_PATTERN, ExecutionName, FunctionName, RevisionName
from skybridge_server.services.violations import Violations

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
HELLO = FunctionName("default", "hello")

ids = st.from_regex(ID_PATTERN, fullmatch=True)
uuids = st.uuids().map(str)


def fields(wrong: Violations) -> list[str]:
    return [violation.field for violation in wrong]


@given(ids, ids, st.integers(1, 10**17), uuids)
def test_full_names_are_read_as_they_are_written(
    namespace: str, id_: str, number: int, uuid: str
) -> None:
    with Violations() as wrong:
        function = FunctionName(namespace, id_)
        assert names.namespace(f"namespaces/{namespace}", "x", wrong) == namespace
        assert names.new_function(f"namespaces/{namespace}", id_, wrong) == function
        assert names.function(str(function), "x", wrong) == function
        revision = RevisionName(function, number)
        assert names.revision(str(revision), "x", wrong) == revision
        execution = ExecutionName(namespace, uuid)
        assert names.execution(str(execution), "x", wrong) == execution
        assert names.execution_or_function(str(execution), "x", wrong) == execution
        assert names.execution_or_function(str(function), "x", wrong) == function


def test_short_names_are_of_the_default_namespace() -> None:
    with Violations() as wrong:
        assert names.namespace("", "x", wrong) == "default"
        assert names.function("hello", "x", wrong) == HELLO
        assert names.revision("hello/revisions/3", "x", wrong) == RevisionName(HELLO, 3)
        assert names.execution(UUID, "x", wrong) == ExecutionName("default", UUID)
        assert names.execution_or_function("hello", "x", wrong) == HELLO


NO_FUNCTIONS = [
    "",
    "Hello",
    "hello-",
    "-hello",
    "1hello",
    "a" * 64,
    "hello\n",
    "ab\0cd",
    "../hello",
    "..",
    "hello/..",
    "a/b",
    "functions/hello",
    "namespaces//functions/hello",
    "namespaces/default/functions/",
    "namespaces/default/functions/hello/",
    "/namespaces/default/functions/hello",
    "namespaces/de fault/functions/hello",
    "namespaces/default/functions/../functions/hello",
    "namespaces/default/executions/hello",
    "héllo",
    "%2e%2e",
]


@pytest.mark.parametrize("value", NO_FUNCTIONS)
def test_wrong_functions(value: str) -> None:
    wrong = Violations()
    names.function(value, "name", wrong)
    names.execution_or_function(value, "other", wrong)
    assert fields(wrong) == ["name", "other"]


@pytest.mark.parametrize("value", ["default", "namespaces/", "namespaces/a/b", "namespaces/-", " "])
def test_wrong_namespaces(value: str) -> None:
    wrong = Violations()
    names.namespace(value, "parent", wrong)
    assert fields(wrong) == ["parent"]


@pytest.mark.parametrize(
    "number", ["", "0", "-1", "01", "1.0", "x", "9" * 19, "1/..", "١", "latest"]
)
def test_wrong_revisions(number: str) -> None:
    wrong = Violations()
    names.revision(f"hello/revisions/{number}", "name", wrong)
    names.revision(number, "name", wrong)
    assert fields(wrong) == ["name", "name"]


@pytest.mark.parametrize(
    "value",
    ["", "hello", UUID.upper(), UUID[:-1], f"{{{UUID}}}", f"executions/{UUID}", UUID + "\n"],
)
def test_wrong_executions(value: str) -> None:
    wrong = Violations()
    names.execution(value, "name", wrong)
    assert fields(wrong) == ["name"]


def test_a_new_function_has_both_parts_checked() -> None:
    wrong = Violations()
    names.new_function("default", "", wrong)
    assert fields(wrong) == ["parent", "function_id"]


@given(st.text(max_size=100))
def test_no_text_breaks_a_parser(text: str) -> None:
    wrong = Violations()
    for parse in (names.function, names.revision, names.execution, names.execution_or_function):
        name = parse(text, "name", wrong)
        assert fields(wrong)[-1:] == ["name"] or str(name).endswith(text)
