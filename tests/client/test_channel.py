from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from skybridge.faas.v1 import system_service_pb2 as system_service
from skybridge.faas.v1.execution_service_pb2 import StartExecutionResponse
from skybridge_client import (
    AsyncClient,
    Client,
    Invocation,
    PermissionDeniedError,
    TlsConfig,
    UnavailableError,
)
from skybridge_client.channel import (
    DEFAULT_ADDRESS,
    _is_loopback,
    options,
    resolve_address,
    resolve_token,
    service_config,
)
from tests.client.commands import skybridge
from tests.client.conftest import each
from tests.client.scripted import CUT, Abort, Scripted, Visit, serve
from tests.support.waiting import PATIENCE

FILES = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
INFO = system_service.GetSystemInfoResponse(version="1")


def test_the_address_is_the_given_one_then_the_environments_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_address(None) == DEFAULT_ADDRESS
    monkeypatch.setenv("SKYBRIDGE_ADDRESS", "example.test:1")
    assert resolve_address(None) == "example.test:1"
    assert resolve_address("example.test:2") == "example.test:2"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:///run/skybridge.sock", True),
        ("10.0.0.1:1", False),
        ("example.test:443", False),
    ],
)
def test_no_proxy_stands_between_a_caller_and_its_own_machine(address: str, loopback: bool) -> None:
    assert _is_loopback(address) is loopback
    assert dict(options(address))["grpc.enable_http_proxy"] == int(not loopback)


def test_grpc_repeats_reads_and_writes_with_a_request_id_and_nothing_else() -> None:
    [config] = json.loads(service_config())["methodConfig"]
    assert {name["method"] for name in config["name"]} == {
        "CreateFunction",
        "CreateSchedule",
        "CreateSecret",
        "DeleteFunction",
        "DeleteSchedule",
        "DeleteSecret",
        "DisableFunction",
        "EnableFunction",
        "ExecuteBatch",
        "ExecuteFunction",
        "GetDeadLetter",
        "GetExecution",
        "GetFunction",
        "GetFunctionMetrics",
        "GetInstance",
        "ListInstances",
        "GetRevision",
        "GetSchedule",
        "GetSecret",
        "GetCaller",
        "GetSystemInfo",
        "GetToken",
        "ListDeadLetters",
        "ListExecutions",
        "ListFunctions",
        "ListRevisions",
        "ListRuntimes",
        "ListSchedules",
        "ListSecrets",
        "ListTokens",
        "PauseSchedule",
        "ResumeSchedule",
        "RollbackFunction",
        "StartExecution",
        "TriggerSchedule",
        "UpdateFunction",
        "UpdateSchedule",
        "UpdateSecret",
        "WaitExecution",
    }
    policy = config["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert policy["maxAttempts"] == 5


def test_answers_up_to_8_mib_come_through(server: Scripted) -> None:
    big = system_service.GetSystemInfoResponse(version="x" * 7 * 1024 * 1024)
    server.on("GetSystemInfo", big)
    with Client(server.address) as client:
        assert client.system_info() == big


def test_a_write_with_3_mib_of_input_is_still_repeated(server: Scripted) -> None:

    server.on("StartExecution", CUT).on("StartExecution", StartExecutionResponse())
    with Client(server.address) as client:
        client.start("hello", b"x" * 3 * 1024 * 1024)
    assert len(server.asked("StartExecution")) == 2


# Who calls


@pytest.mark.parametrize(
    ("given", "environment", "sent"),
    [
        (None, None, ()),
        (None, "", ()),
        (None, "sky_env", (("authorization", "Bearer sky_env"),)),
        ("sky_given", "sky_env", (("authorization", "Bearer sky_given"),)),
        ("", "sky_env", ()),
    ],
)
def test_the_token_is_the_given_one_then_the_environments(
    given: str | None,
    environment: str | None,
    sent: tuple[tuple[str, str], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment is not None:
        monkeypatch.setenv("SKYBRIDGE_TOKEN", environment)
    assert resolve_token(given) == sent


@pytest.mark.parametrize("token", ["two words", "sky_\n", "skü", "a\0"])
def test_a_token_that_cannot_be_sent_is_told_at_once(token: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="visible characters of ASCII") as caught:
            kind("127.0.0.1:1", token=token)
        assert token not in str(caught.value)


def test_every_kind_of_call_says_who_makes_it(server: Scripted) -> None:
    server.on("GetSystemInfo", INFO).on("GetSystemInfo", INFO)
    denied = Abort(grpc.StatusCode.PERMISSION_DENIED, reason="ROLE_INSUFFICIENT")

    def hear(visit: Visit) -> Iterator[Message]:
        """A refusal that is sooner than the first request would meet it on its way."""
        next(visit.request)
        yield from ()

    for _ in range(2):
        server.on("WatchExecution", denied).on("InvokeStream", denied)
        server.on("AttachExecution", hear, denied)
    invocations = [Invocation("hello")]
    with Client(server.address, token="sky_1") as client:
        assert client.system_info() == INFO
        for stream in (
            client.watch("x"),
            client.invoke_stream(invocations),
            client.attach("hello", []),
        ):
            with pytest.raises(PermissionDeniedError):
                list(stream)

    async def ask() -> None:
        async with AsyncClient(server.address, token="sky_2") as client:
            assert await client.system_info() == INFO
            for stream in (
                client.watch("x"),
                client.invoke_stream(each(invocations)),
                client.attach("hello", each([])),
            ):
                with pytest.raises(PermissionDeniedError):
                    _ = [answer async for answer in stream]

    asyncio.run(ask())
    assert server.callers == ["Bearer sky_1"] * 4 + ["Bearer sky_2"] * 4


# TLS, with certificates made here


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
def secure(request: pytest.FixtureRequest, authority: Path) -> Any:
    """A server with TLS; `mtls` asks for the caller's certificate too."""
    pair = ((authority / "server.key").read_bytes(), (authority / "server.pem").read_bytes())
    ca = (authority / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials(
        [pair], ca if request.param else None, require_client_auth=request.param
    )
    scripted = Scripted()
    running = serve(scripted, credentials)
    yield scripted
    running.stop(0).wait(PATIENCE)


def tls_of(authority: Path) -> TlsConfig:
    return TlsConfig(authority / "ca.pem", authority / "client.pem", authority / "client.key")


def test_tls_with_the_files_that_are_given(secure: Scripted, authority: Path) -> None:
    secure.on("GetSystemInfo", INFO).on("GetSystemInfo", INFO)
    with Client(secure.address, tls=tls_of(authority)) as client:
        assert client.system_info() == INFO

    async def ask() -> Any:
        async with AsyncClient(secure.address, tls=tls_of(authority)) as client:
            return await client.system_info()

    assert asyncio.run(ask()) == INFO


def test_tls_from_the_environment(
    secure: Scripted, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYBRIDGE_ADDRESS", secure.address)
    monkeypatch.setenv("SKYBRIDGE_TLS_CA", str(authority / "ca.pem"))
    monkeypatch.setenv("SKYBRIDGE_TLS_CERT", str(authority / "client.pem"))
    monkeypatch.setenv("SKYBRIDGE_TLS_KEY", str(authority / "client.key"))
    secure.on("GetSystemInfo", INFO)
    with Client() as client:
        assert client.system_info() == INFO


def test_the_command_takes_tls_from_options_and_environment(
    secure: Scripted, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.on("GetSystemInfo", INFO).on("GetSystemInfo", INFO)
    options = {name: str(authority / file) for name, file in FILES.items()}
    flags = [word for name, file in options.items() for word in (f"--tls-{name}", file)]
    assert skybridge(secure, *flags, "system", "--json").json == {"version": "1"}
    for name, file in options.items():
        monkeypatch.setenv(f"SKYBRIDGE_TLS_{name.upper()}", file)
    assert skybridge(secure, "--tls", "system", "--json").json == {"version": "1"}
    refused = skybridge(secure, "--no-tls", "executions", "cancel", "e")
    assert refused.code == 69


def test_a_server_of_another_authority_is_refused(secure: Scripted) -> None:
    with Client(secure.address, tls=True) as client, pytest.raises(UnavailableError):
        client.cancel("e")
    with Client(secure.address, tls=False) as client, pytest.raises(UnavailableError):
        client.cancel("e")
    assert secure.requests == []


def test_half_a_client_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="both its cert and its key"):
        TlsConfig(cert="client.pem")
    with pytest.raises(FileNotFoundError):
        Client(tls=TlsConfig(ca="/nowhere/ca.pem"))
