"""`skybridge tokens` and `skybridge whoami`, and who the command says it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import system_service_pb2
from skybridge.faas.v1 import token_service_pb2 as service
from skybridge_client.cli import text
from skybridge_client.messages import Role, Token
from tests.client.commands import skybridge
from tests.client.scripted import Abort, Scripted

SECRET = "sky_" + "s" * 43
CI = Token(
    name="tokens/ci",
    role=Role.ROLE_DEVELOPER,
    namespaces=["namespaces/blue", "namespaces/red"],
    description="for CI",
    create_time=Timestamp(seconds=1_700_000_000),
    expire_time=Timestamp(seconds=1_800_000_000),
)
WEB = Token(name="tokens/web", role=Role.ROLE_INVOKER, create_time=Timestamp(seconds=1))
CREATED = service.CreateTokenResponse(token=CI, secret=SECRET)


def test_create_writes_the_secret_and_nothing_else_to_stdout(server: Scripted) -> None:
    server.on("CreateToken", CREATED)
    ran = skybridge(server, "tokens", "create", "ci", "--role", "developer")
    assert (ran.code, ran.text) == (0, f"{SECRET}\n")
    assert "not shown again" in ran.stderr
    (request,) = server.asked("CreateToken")
    assert (request.token_id, request.token.role) == ("ci", Role.ROLE_DEVELOPER)
    assert [*request.token.namespaces] == []
    assert not request.token.HasField("expire_time")


def test_create_takes_all_that_a_token_has(server: Scripted) -> None:
    server.on("CreateToken", CREATED).on("CreateToken", CREATED)
    where = ("--namespace", "blue", "--namespace", "namespaces/red", "--description", "for CI")
    command = ("tokens", "create", "tokens/ci", "--role", "viewer", *where)
    assert skybridge(server, *command, "--expires", "90d").code == 0
    assert skybridge(server, *command, "--expires", "2027-01-31T12:00:00Z").code == 0
    relative, absolute = server.asked("CreateToken")
    assert relative.token_id == "ci"
    assert [*relative.token.namespaces] == ["namespaces/blue", "namespaces/red"]
    assert relative.token.description == "for CI"
    left = relative.token.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert absolute.token.expire_time.ToJsonString() == "2027-01-31T12:00:00Z"


def test_create_for_programs(server: Scripted) -> None:
    server.on("CreateToken", CREATED)
    ran = skybridge(server, "tokens", "create", "ci", "--role", "viewer", "--json")
    assert (ran.json["secret"], ran.json["token"]["role"]) == (SECRET, "ROLE_DEVELOPER")
    ran = skybridge(server, "tokens", "create", "ci", "--role", "viewer", "-o", "name")
    assert (ran.code, "would lose the secret" in ran.stderr) == (2, True)
    assert len(server.asked("CreateToken")) == 1


def test_a_role_that_there_is_not_is_told(server: Scripted) -> None:
    ran = skybridge(server, "tokens", "create", "ci", "--role", "boss")
    assert (ran.code, server.requests) == (2, [])
    assert "'viewer', 'invoker', 'developer', 'admin'" in ran.words


def test_list_is_a_table(server: Scripted) -> None:
    server.on("ListTokens", service.ListTokensResponse(tokens=[CI, WEB]))
    head, ci, web = skybridge(server, "tokens", "list").text.splitlines()
    assert head.split() == ["TOKEN", "ROLE", "NAMESPACES", "CREATED", "EXPIRES", "DESCRIPTION"]
    assert ci.split()[:4] == ["ci", "developer", "blue,", "red"]
    assert ci.endswith("for CI")
    assert web.split()[:3] == ["web", "invoker", "all"]
    assert web.split()[-1] == "never"


def test_get_and_delete(server: Scripted) -> None:
    server.on("GetToken", service.GetTokenResponse(token=CI))
    server.on("DeleteToken", service.DeleteTokenResponse())
    assert skybridge(server, "tokens", "get", "ci", "--json").json["name"] == "tokens/ci"
    assert skybridge(server, "tokens", "delete", "ci").code == 0
    assert [request.name for _, request in server.requests] == ["ci", "ci"]


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (CI, f"ci: developer in blue, red, until {text.moment(CI.expire_time)}\n"),
        (WEB, "web: invoker in all namespaces\n"),
        (Token(role=Role.ROLE_ADMIN), "the operator: admin in all namespaces\n"),
    ],
)
def test_whoami(token: Token, said: str, server: Scripted) -> None:
    for _ in range(3):
        server.on("GetCaller", service.GetCallerResponse(token=token, token_required=True))
    assert skybridge(server, "whoami").text == said
    assert skybridge(server, "whoami", "--json").json["token"].get("name", "") == token.name
    assert skybridge(server, "whoami", "-o", "name").text == f"{token.name}\n"


def test_whoami_where_nobody_is_asked(server: Scripted) -> None:
    answer = service.GetCallerResponse(token=Token(role=Role.ROLE_ADMIN))
    server.on("GetCaller", answer)
    assert skybridge(server, "whoami").text.startswith("anybody: the server asks for no token")


@pytest.mark.parametrize(
    ("expires", "said"), [("", "neither like 5m"), ("9999999d", "too far away")]
)
def test_a_time_that_is_none_is_wrong_usage(expires: str, said: str, server: Scripted) -> None:
    ran = skybridge(server, "tokens", "create", "ci", "--role", "viewer", "--expires", expires)
    assert (ran.code, server.requests, said in ran.words) == (2, [], True)


def test_the_token_comes_from_a_file_or_the_environment(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        server.on("GetSystemInfo", system_service_pb2.GetSystemInfoResponse())
    skybridge(server, "system")
    monkeypatch.setenv("SKYBRIDGE_TOKEN", "sky_environment")
    skybridge(server, "system")
    file = tmp_path / "token"
    file.write_text("sky_file\n")
    skybridge(server, "--token-file", str(file), "system")
    assert server.callers == ["", "Bearer sky_environment", "Bearer sky_file"]


def test_a_token_that_is_none_is_wrong_usage(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "token"
    for content, said in (
        (b"two words", "the token must have only visible characters"),
        (b"\xff", "--token-file"),
        (b"\n", f"{file} is empty"),
    ):
        file.write_bytes(content)
        ran = skybridge(server, "--token-file", str(file), "system")
        assert (ran.code, server.requests, said in ran.stderr) == (2, [], True)
    ran = skybridge(server, "--token-file", "/nowhere/token", "system")
    assert (ran.code, "/nowhere/token" in ran.stderr) == (2, True)


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_who_may_not_ends_with_77(code: str, server: Scripted) -> None:
    server.on("GetSystemInfo", Abort(grpc.StatusCode[code], "no, since", reason="X"))
    ran = skybridge(server, "system")
    assert (ran.code, ran.stdout, ran.stderr) == (77, b"", "skybridge: no, since\n")
