"""The table of who may call what: whole, and of one mind with those who read the names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.api import names
from skybridge_server.api.permissions import PACKAGE, RULES, namespace_of
from skybridge_server.models.names import ID_PATTERN
from skybridge_server.models.tokens import GRANTS, Permission
from skybridge_server.services.violations import Violations
from tests.support import descriptors

ACCESS = (Path(__file__).parents[3] / "docs" / "access.md").read_text()
NO_NAMES = {
    *("request_id", "etag", "filter", "order_by", "page_token", "traceparent", "content_type"),
    *(
        "function_id",
        "schedule_id",
        "secret_id",
        "token_id",
        "id",
        "uid",
        "description",
        "state_message",
    ),
    *("image", "command", "args", "working_dir", "path", "health_path", "user", "oci_runtime"),
    *("runtime", "url", "secret", "cron", "time_zone", "username", "password"),
    *("active_revision", "last_execution", "namespaces"),
}
"""Fields of text that name nothing to act on, wherever they stand in a request."""
SAYS_NOTHING = {
    # Output only, or of the namespace that another field says, by a rule of its own.
    "CreateFunction": {"function.name"},
    "CreateSchedule": {"schedule.name", "schedule.function"},
    "UpdateSchedule": {"schedule.function"},
    # Each of many is looked at by itself, see tests/api/test_tokens.py.
    "InvokeStream": {"invocations.execute.function"},
    "ExecuteBatch": {"requests.function"},
    # What a signal is called.
    "AttachExecution": {"signal.name"},
    "CreateToken": {"token.name"},
    "GetToken": {"name"},
    "DeleteToken": {"name"},
}
ids = st.from_regex(ID_PATTERN, fullmatch=True)
uuids = st.uuids().map(str)


def key(rpc: MethodDescriptor) -> str:
    return f"{rpc.containing_service.full_name}/{rpc.name}"


def test_each_rpc_has_a_rule_and_each_rule_an_rpc() -> None:
    assert set(RULES) == {key(rpc) for rpc in descriptors.rpcs()}


def paths(message: Descriptor, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all fields that hold a resource name."""
    for field in message.fields:
        path = (*prefix, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue  # what users call things
        if field.message_type is not None and field.message_type.full_name.startswith(PACKAGE):
            yield from paths(field.message_type, path)
        elif field.name not in NO_NAMES and field.type == field.TYPE_STRING:
            yield path


def named(message: Any, path: tuple[str, ...], value: str) -> None:
    """Set one field, however deep."""
    for part in path[:-1]:
        inner = getattr(message, part)
        message = inner.add() if hasattr(inner, "add") else inner
    setattr(message, path[-1], value)


CASES = [
    (rpc, path)
    for rpc in descriptors.rpcs()
    for path in paths(rpc.input_type)
    if ".".join(path) not in SAYS_NOTHING.get(rpc.name, set())
]


@pytest.mark.parametrize(
    ("rpc", "path"), CASES, ids=[f"{rpc.name}-{'.'.join(path)}" for rpc, path in CASES]
)
def test_no_name_in_a_request_is_overlooked(rpc: MethodDescriptor, path: tuple[str, ...]) -> None:
    request = GetMessageClass(rpc.input_type)()
    named(request, path, "namespaces/blue/functions/x")
    spaces = {namespace_of(name) for name in RULES[key(rpc)].names(request)}
    assert "blue" in spaces


@pytest.mark.parametrize("rpc", [*descriptors.rpcs()], ids=lambda rpc: rpc.name)
def test_what_acts_on_a_namespace_says_in_which(rpc: MethodDescriptor) -> None:
    rule = RULES[key(rpc)]
    request = GetMessageClass(rpc.input_type)()
    nowhere = {Permission.ASK, Permission.ADMINISTER}
    streams = {"InvokeStream", "ExecuteBatch", "AttachExecution"}  # what names nothing does nothing
    says = {namespace_of(name) for name in rule.names(request)}
    assert says == (set() if rule.permission in nowhere or rpc.name in streams else {"default"})


PARSERS: dict[str, Callable[[str, str, Violations], Any]] = {
    "functions": names.function,
    "executions": names.execution,
    "instances": names.instance,
    "schedules": names.schedule,
}
odd = st.from_regex(r"(namespaces/?)?[a-z0-9/-]{0,12}(/functions/)?[a-z-]{0,3}", fullmatch=True)
texts = st.one_of(
    ids,
    uuids,
    odd,
    st.text(max_size=20),
    st.builds(
        "namespaces/{}/{}/{}".format, ids, st.sampled_from(sorted(PARSERS)), st.one_of(ids, uuids)
    ),
)


@given(texts, st.sampled_from(sorted(PARSERS)))
def test_the_door_and_the_parsers_mean_the_same_namespace(text: str, kind: str) -> None:
    """Else a name could be let in for one namespace and be served from another."""
    wrong = Violations()
    name = PARSERS[kind](text, "x", wrong)
    if not [*wrong]:
        assert name.namespace == namespace_of(text)


@given(texts, ids, st.integers(1, 99))
def test_so_do_those_of_other_names(text: str, id_: str, number: int) -> None:
    wrong = Violations()
    revision = names.revision(f"{text}/revisions/{number}", "x", wrong)
    if not [*wrong]:
        assert revision.function.namespace == namespace_of(f"{text}/revisions/{number}")
    wrong = Violations()
    name = names.execution_or_function(text, "x", wrong)
    if not [*wrong]:
        assert name.namespace == namespace_of(text)
    for parent in ("", f"namespaces/{id_}"):
        assert names.namespace(parent, "x", Violations()) == namespace_of(parent)


def test_the_document_says_the_same() -> None:
    told = dict(re.findall(r"^\| (\w+) \| ((?:\w+, )*\w+) \|$", ACCESS, re.MULTILINE))
    for permission in Permission:
        calls = {key.rpartition("/")[2] for key in RULES if RULES[key].permission is permission}
        assert set(told[permission.value].split(", ")) == calls
    columns = [permission.value for permission in Permission]
    assert f"| role | {' | '.join(columns)} |" in ACCESS
    for role, granted in GRANTS.items():
        cells = "|".join(" yes " if permission in granted else " " for permission in Permission)
        assert f"| {role.name} |{cells}|" in ACCESS
