from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import function_service_pb2 as service
from skybridge_client.cli.specs import OPTIONS
from skybridge_client.messages import (
    DeploymentPhase,
    Function,
    FunctionSpec,
    FunctionState,
    LayerProgress,
    Revision,
    Timeouts,
)
from skybridge_client.specs import PATHS, build_function
from tests.client.commands import skybridge
from tests.client.scripted import Abort, Scripted
from tests.client.test_client import at
from tests.client.test_specs import FIELDS

NAME = "namespaces/default/functions/hello"
FUNCTION = Function(
    name=NAME,
    labels={"team": "blue", "area": "x"},
    spec=FunctionSpec(
        image="busybox:1.36",
        args=["echo", "a b"],
        timeouts=Timeouts(execution=Duration(seconds=90)),
    ),
    state=FunctionState.FUNCTION_STATE_ACTIVE,
    active_revision=f"{NAME}/revisions/2",
    update_time=Timestamp(seconds=1_800_000_000),
)
FUNCTION.spec.resources.memory_bytes = 64 << 20
REVISION = Revision(name=f"{NAME}/revisions/2", number=2, active=True, spec=FUNCTION.spec)

# How each keyword is written as options; in the order of test_specs.FIELDS.
WRITTEN: dict[str, list[str]] = {
    "labels": ["--label", "a=b"],
    "command": ["--command", "sh"],
    "args": ["--arg", "-c", "--arg", "true"],
    "env": ["--env", "A=1"],
    "secrets": ["--secret", "db.key=db"],
    "memory_bytes": ["--memory", "1"],
    "tmp_bytes": ["--tmp", "4"],
    "output_bytes": ["--output-limit", "5"],
    "queue_timeout": ["--queue-timeout", "1ms"],
    "execution_timeout": ["--execution-timeout", "1m30.5s"],
    "shutdown_grace": ["--shutdown-grace", "0s"],
    "writable_root": ["--writable-root"],
    "execution_age": ["--execution-age", "1h"],
    "initial_backoff": ["--initial-backoff", "500ms"],
    "max_backoff": ["--max-backoff", "1m30s"],
    "retry_max_age": ["--retry-max-age", "1h"],
    "dead_letters": ["--dead-letters"],
    "retry_on": ["--retry-on", "exit_code", "--retry-on", "lost"],
    "retry_exit_codes": ["--retry-exit-code", "75", "--retry-exit-code", "111"],
}


def created(function: Function = FUNCTION) -> Message:
    return service.CreateFunctionResponse(function=function)


def test_every_keyword_has_an_option() -> None:
    assert set(OPTIONS) == set(PATHS)


@pytest.mark.parametrize(("keyword", "value", "stands"), FIELDS, ids=[row[0] for row in FIELDS])
def test_each_option_sets_its_field(
    keyword: str, value: Any, stands: Any, server: Scripted
) -> None:
    written = WRITTEN.get(keyword, [f"--{keyword.replace('_', '-')}", str(value)])
    server.on("CreateFunction", created())
    assert skybridge(server, "function", "create", "hello", *written).code == 0
    [request] = server.asked("CreateFunction")
    assert at(request.function, PATHS[keyword]) == stands
    assert request.function == build_function(None, {keyword: value})


def test_create_shows_the_function_with_its_defaults(server: Scripted) -> None:
    server.on("CreateFunction", created())
    ran = skybridge(server, "function", "create", "hello", "--namespace", "a", "--dry-run")
    shown = dict(line.split(maxsplit=1) for line in ran.text.splitlines())
    assert shown["name"] == NAME
    assert shown["labels"] == "area=x, team=blue"
    assert shown["spec.args"] == "echo 'a b'"
    assert shown["spec.resources.memory_bytes"] == "64 MiB"
    assert shown["spec.timeouts.execution"] == "1m30s"
    assert shown["state"] == "active"
    [request] = server.asked("CreateFunction")
    assert (request.parent, request.validate_only) == ("namespaces/a", True)


@pytest.mark.parametrize(
    "form", [["--json"], ["-o", "json"], ["--output", "json"]], ids=["json", "o", "output"]
)
def test_json_is_that_of_protobuf_before_or_after_the_command(
    form: list[str], server: Scripted
) -> None:
    for _ in range(2):
        server.on("GetFunction", service.GetFunctionResponse(function=FUNCTION))
    after = skybridge(server, "function", "get", "hello", *form)
    before = skybridge(server, *form, "function", "get", "hello")
    assert after == before
    assert after.json["spec"]["resources"] == {"memoryBytes": str(64 << 20)}
    assert after.json["activeRevision"] == f"{NAME}/revisions/2"


def test_the_form_of_the_command_wins_over_the_one_before_it(server: Scripted) -> None:
    server.on("GetFunction", service.GetFunctionResponse(function=FUNCTION))
    assert skybridge(server, "--json", "function", "get", "hello", "-o", "name").text == f"{NAME}\n"


def listed(*names: str, token: str = "") -> Message:
    functions = [Function(name=name, spec=FUNCTION.spec) for name in names]
    return service.ListFunctionsResponse(functions=functions, next_page_token=token)


def test_list(server: Scripted) -> None:
    other = "namespaces/other/functions/a-long-name"
    for _ in range(3):
        server.on("ListFunctions", listed(NAME, other))
    lines = skybridge(server, "function", "list").text.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "REVISION", "UPDATED", "IMAGE"]
    assert [line.split()[0] for line in lines[1:]] == ["hello", other]
    assert lines[0].index("IMAGE") == lines[1].index("busybox") == lines[2].index("busybox")
    assert skybridge(server, "function", "list", "-o", "name").text == f"{NAME}\n{other}\n"
    document = skybridge(server, "function", "list", "--json").json
    assert [function["name"] for function in document["functions"]] == [NAME, other]


def test_list_says_what_and_how_many(server: Scripted) -> None:
    server.on("ListFunctions", listed("a", "b", token="t"))
    ran = skybridge(
        server,
        *("function", "list", "--namespace", "n", "--filter", "state = ACTIVE"),
        *("--order-by", "name desc", "--limit", "2", "-o", "name"),
    )
    assert ran.text == "a\nb\n"
    [request] = server.asked("ListFunctions")
    assert request.parent == "namespaces/n"
    assert (request.filter, request.order_by) == ("state = ACTIVE", "name desc")
    assert request.page_size == 2


def test_a_list_without_entries_has_its_head_only(server: Scripted) -> None:
    server.on("ListFunctions", listed()).on("ListFunctions", listed())
    assert skybridge(server, "function", "list").text.split()[0] == "NAME"
    assert skybridge(server, "function", "list", "--json").json == {"functions": []}


def test_update_changes_what_is_given_and_resets_what_is_named(server: Scripted) -> None:
    server.on("UpdateFunction", service.UpdateFunctionResponse(function=FUNCTION))
    ran = skybridge(
        server,
        *("function", "update", "hello", "--memory", "256MiB", "--reset", "spec.env"),
        *("--etag", "e1"),
    )
    assert ran.code == 0
    [request] = server.asked("UpdateFunction")
    assert list(request.update_mask.paths) == ["spec.resources.memory_bytes", "spec.env"]
    assert (request.function.name, request.etag) == ("hello", "e1")


def test_an_update_of_nothing_is_refused(server: Scripted) -> None:
    ran = skybridge(server, "function", "update", "hello")
    assert (ran.code, server.requests) == (2, [])
    assert "nothing to change" in ran.stderr


def test_delete_says_nothing(server: Scripted) -> None:
    server.on("DeleteFunction", service.DeleteFunctionResponse())
    ran = skybridge(server, "function", "delete", "hello", "--force", "--etag", "e")
    assert (ran.code, ran.stdout, ran.stderr) == (0, b"", "")
    [request] = server.asked("DeleteFunction")
    assert (request.force, request.etag) == (True, "e")


@pytest.mark.parametrize(
    ("command", "rpc", "answer"),
    [
        ("rollback", "RollbackFunction", service.RollbackFunctionResponse(function=FUNCTION)),
        ("disable", "DisableFunction", service.DisableFunctionResponse(function=FUNCTION)),
        ("enable", "EnableFunction", service.EnableFunctionResponse(function=FUNCTION)),
    ],
)
def test_what_changes_a_function_shows_it(
    command: str, rpc: str, answer: Message, server: Scripted
) -> None:
    server.on(rpc, answer)
    assert skybridge(server, "function", command, "hello", "-o", "name").text == f"{NAME}\n"
    assert server.asked(rpc)[0].name == "hello"


def test_rollback_to_a_revision(server: Scripted) -> None:
    server.on("RollbackFunction", service.RollbackFunctionResponse(function=FUNCTION))
    skybridge(server, "function", "rollback", "hello", "--revision", "3")
    assert server.asked("RollbackFunction")[0].revision == 3


def test_revisions(server: Scripted) -> None:
    answer = service.ListRevisionsResponse(revisions=[REVISION])
    server.on("ListRevisions", answer).on("ListRevisions", answer)
    line = skybridge(server, "function", "revisions", "hello").text.splitlines()[1]
    assert line.split()[:2] == ["2", "*"]
    assert skybridge(server, "function", "revisions", "hello", "-o", "name").text.endswith("/2\n")


def deployment() -> list[Message]:
    layer = LayerProgress(layer="abc", status="Downloading", current_bytes=1, total_bytes=2)
    phase = DeploymentPhase.DEPLOYMENT_PHASE_PULLING
    return [
        service.DeployFunctionResponse(phase=phase),
        service.DeployFunctionResponse(layer=layer),
        service.DeployFunctionResponse(revision=REVISION),
    ]


def test_deploy_tells_its_phases_and_ends_with_the_revision(server: Scripted) -> None:
    server.on("DeployFunction", *deployment())
    ran = skybridge(server, "function", "deploy", "hello")
    assert ran.stderr == "pulling hello\n"
    assert ran.text.splitlines()[1].split()[0] == "2"


def test_deploy_for_programs(server: Scripted) -> None:
    server.on("DeployFunction", *deployment()).on("DeployFunction", *deployment())
    ran = skybridge(server, "function", "deploy", "hello", "--json")
    assert len(ran.text.splitlines()) == 3
    assert ran.stderr == ""
    named = skybridge(server, "function", "deploy", "hello", "-o", "name")
    assert named.text == f"{NAME}/revisions/2\n"


def test_deploy_takes_credentials_from_stdin_or_the_environment(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYBRIDGE_REGISTRY_PASSWORD", "from-environment")
    for _ in range(3):
        server.on("DeployFunction", *deployment())
    deploy = ("function", "deploy", "hello")
    skybridge(server, *deploy, "--username", "me", "--password-stdin", stdin=b"from-stdin\n")
    skybridge(server, *deploy, "--username", "me")
    skybridge(server, *deploy)
    asked = [request.registry_credentials for request in server.asked("DeployFunction")]
    assert [(each.username, each.password) for each in asked] == [
        ("me", "from-stdin"),
        ("me", "from-environment"),
        ("", ""),
    ]


def test_a_refusal_is_one_line_and_an_exit_code(server: Scripted) -> None:
    refusal = Abort(grpc.StatusCode.NOT_FOUND, "function 'x' does not exist", reason="NOT_FOUND")
    server.on("GetFunction", refusal)
    ran = skybridge(server, "function", "get", "x")
    assert (ran.code, ran.stdout) == (1, b"")
    assert ran.stderr == "skybridge: function 'x' does not exist\n"
