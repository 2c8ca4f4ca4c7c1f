"""`skybridge secrets`."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import secret_service_pb2 as service
from skybridge_client.messages import Secret
from tests.client.commands import skybridge
from tests.client.scripted import Scripted

DB = Secret(
    name="namespaces/default/secrets/db",
    value_bytes=2048,
    etag="one",
    create_time=Timestamp(seconds=1_700_000_000),
    update_time=Timestamp(seconds=1_800_000_000),
)
VALUE = b"\0geheim\n"


def test_the_value_comes_from_stdin_or_a_file_as_it_is(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(VALUE)
    for given, stdin in (((), VALUE), (("--file", str(file)), b"")):
        server.on("CreateSecret", service.CreateSecretResponse(secret=DB))
        server.on("UpdateSecret", service.UpdateSecretResponse(secret=DB))
        create = ("secrets", "create", "db", "--namespace", "namespaces/red", *given)
        assert skybridge(server, *create, stdin=stdin).code == 0
        update = ("secrets", "update", "db", "--etag", "one", *given)
        ran = skybridge(server, *update, "--json", stdin=stdin)
        assert ran.json["name"] == DB.name
    for request in server.asked("CreateSecret"):
        assert (request.parent, request.secret_id) == ("namespaces/red", "db")
        assert request.value == VALUE
        assert request.request_id
    for request in server.asked("UpdateSecret"):
        assert (request.name, request.value, request.etag) == ("db", VALUE, "one")


def test_a_file_that_cannot_be_read_is_wrong_usage(server: Scripted) -> None:
    ran = skybridge(server, "secrets", "create", "db", "--file", "/nowhere/x")
    assert (ran.code, server.requests) == (2, [])
    assert "/nowhere/x: No such file" in ran.words


def test_a_terminal_is_told_what_to_do(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skybridge_client.cli.secrets.typed", lambda: True)
    ran = skybridge(server, "secrets", "update", "db")
    assert (ran.code, server.requests) == (2, [])
    assert "pipe the value to this command, or name a file with --file" in ran.words


def test_list_is_a_table(server: Scripted) -> None:
    server.on("ListSecrets", service.ListSecretsResponse(secrets=[DB]))
    head, row = skybridge(server, "secrets", "list", "--namespace", "red").text.splitlines()
    assert head.split() == ["SECRET", "SIZE", "CREATED", "UPDATED"]
    assert row.split()[:3] == ["db", "2", "KiB"]
    assert server.asked("ListSecrets")[0].parent == "namespaces/red"


def test_get_and_delete(server: Scripted) -> None:
    server.on("GetSecret", service.GetSecretResponse(secret=DB))
    server.on("DeleteSecret", service.DeleteSecretResponse())
    assert "2 KiB" in skybridge(server, "secrets", "get", "db").text
    assert skybridge(server, "secrets", "delete", "db", "--etag", "one").code == 0
    (request,) = server.asked("DeleteSecret")
    assert (request.name, request.etag) == ("db", "one")


def test_too_much_is_told_before_it_is_sent(server: Scripted, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (64 * 1024 + 1))
    for given, stdin in (((), large.read_bytes()), (("--file", str(large)), b"")):
        ran = skybridge(server, "secrets", "create", "db", *given, stdin=stdin)
        assert (ran.code, server.requests) == (2, [])
        assert "a secret has at most 64 KiB" in ran.words
