"""A real server that asks for tokens: the command, both clients and grpcurl, over a restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skybridge_client import (
    AsyncClient,
    Client,
    ExecutionState,
    PermissionDeniedError,
    UnauthenticatedError,
)
from tests.support.command import run
from tests.support.functions import BUSYBOX, collect, new_id, told
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
ADMIN = "a" * 64
SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(FAAS_ADMIN_TOKEN=ADMIN, FAAS_LOG_FORMAT="json")


def skybridge(server: Server, token: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command as a user does; return its exit code, stdout and stderr."""
    done = run(server.address, "skybridge", *arguments, SKYBRIDGE_TOKEN=token)
    return done.code, done.out, done.err


def secret(server: Server, name: str, *options: str) -> str:
    code, out, err = skybridge(server, ADMIN, "tokens", "create", name, *options)
    assert code == 0, err
    return out.strip()


def test_a_team_with_keys(server: Server) -> None:
    """Somebody deploys, somebody only executes, somebody only looks, and somebody is nobody."""
    name, space = new_id(), "namespaces/team"
    function = f"{space}/functions/{name}"
    developer = secret(server, "ci", "--role", "developer", "--namespace", "team")
    invoker = secret(server, "web", "--role", "invoker", "--namespace", "team")
    viewer = secret(server, "eyes", "--role", "viewer", "--expires", "1h")

    with Client(server.address, token=developer) as client:
        client.create_function(
            name, parent=space, image=BUSYBOX, command=["cat"], pull_policy="never"
        )
        assert list(client.deploy(function))
        with pytest.raises(PermissionDeniedError) as elsewhere:
            client.create_function(name, image=BUSYBOX, pull_policy="never")
        assert elsewhere.value.reason == "NAMESPACE_DENIED"
    with Client(server.address, token=invoker) as client:
        execution = client.execute(function, b"in")
        assert (told(execution)[0], execution.output) == ("SUCCEEDED", b"in")
        assert [*client.stream(function, b"live")][-1].HasField("result")
        assert client.get_execution(execution.name).name == execution.name
        for forbidden in (
            lambda: client.get_function(function),
            lambda: client.delete_function(function),
            lambda: list(client.list_executions(parent=space)),
        ):
            with pytest.raises(PermissionDeniedError) as caught:
                forbidden()
            assert caught.value.reason == "ROLE_INSUFFICIENT"
    with Client(server.address, token=viewer) as client:
        assert client.get_function(function).name == function
        assert len([*client.list_executions(parent=space)]) == 2
        with pytest.raises(PermissionDeniedError, match="needs INVOKER or DEVELOPER or ADMIN"):
            client.execute(function)
    with Client(server.address) as client, pytest.raises(UnauthenticatedError) as nobody:
        client.system_info()
    assert nobody.value.reason == "TOKEN_REQUIRED"
    server.stop()


async def test_streams_of_both_ways(server: Server) -> None:
    key = await asyncio.to_thread(secret, server, "web", "--role", "developer")
    name = new_id()
    async with AsyncClient(server.address, token=key) as client:
        await client.create_function(name, image=BUSYBOX, command=["cat"], pull_policy="never")
        assert [step async for step in client.deploy(name)]

        async def typed() -> AsyncIterator[bytes]:
            yield b"one "
            yield b"two"

        events = [event async for event in client.attach(name, typed())]
        output = b"".join(event.output.data for event in events if event.HasField("output"))
        assert output == b"one two"
    async with AsyncClient(server.address, token="sky_wrong") as client:
        for _ in range(5):
            with pytest.raises(UnauthenticatedError):
                await collect(client.attach(name, typed()))
    await asyncio.to_thread(server.stop)


def test_the_command_and_grpcurl(server: Server) -> None:
    key = secret(server, "ci", "--role", "viewer")
    assert skybridge(server, key, "whoami") == (0, "ci: viewer in all namespaces\n", "")
    code, _, err = skybridge(server, key, "tokens", "list")
    assert (code, "needs ADMIN" in err) == (77, True)
    code, _, err = skybridge(server, "", "system")
    assert (code, "SKYBRIDGE_TOKEN" in err) == (77, True)

    def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(SCRIPTS / "grpcurl"), "-plaintext", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    method = "skybridge.faas.v1.TokenService/GetCaller"
    bearer = ("-H", f"authorization: Bearer {key}")
    assert (
        json.loads(grpcurl(*bearer, server.address, method).stdout)["token"]["name"] == "tokens/ci"
    )
    refused = grpcurl(server.address, method)
    assert "Code: Unauthenticated" in refused.stderr
    assert "TOKEN_REQUIRED" in refused.stderr
    assert "skybridge.faas.v1.TokenService" in grpcurl(server.address, "list").stdout
    health = grpcurl(server.address, "grpc.health.v1.Health/Check")
    assert json.loads(health.stdout) == {"status": "SERVING"}
    server.stop()


def test_tokens_outlive_a_server_that_is_killed_and_their_secrets_are_nowhere(
    server: Server,
) -> None:
    kept, deleted = (secret(server, name, "--role", "viewer") for name in ("a", "b"))
    assert skybridge(server, ADMIN, "tokens", "delete", "b")[0] == 0
    server.kill()
    server.start()
    with Client(server.address, token=kept) as client:
        assert client.caller().token.name == "tokens/a"
    with Client(server.address, token=deleted) as client:
        with pytest.raises(UnauthenticatedError) as caught:
            client.caller()
        assert caught.value.reason == "TOKEN_UNKNOWN"
    server.stop()
    for file in Path(server.setting("FAAS_DATABASE")).parent.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(each.encode() in content for each in (kept, deleted, ADMIN)), file


async def test_what_the_server_starts_needs_no_token(server: Server) -> None:
    """A schedule fires, whatever became of the token of who made it."""
    key = await asyncio.to_thread(secret, server, "ci", "--role", "developer")
    name = new_id()
    async with (
        AsyncClient(server.address, token=key) as client,
        AsyncClient(server.address, token=ADMIN) as operator,
    ):
        await client.create_function(name, image=BUSYBOX, command=["true"], pull_policy="never")
        assert [step async for step in client.deploy(name)]
        await client.create_schedule(name, function=name, interval=1)
        await operator.delete_token("ci")
        before = len([each async for each in operator.list_executions()])

        async def fired() -> bool:
            done = [each async for each in operator.list_executions()]
            good = ExecutionState.EXECUTION_STATE_SUCCEEDED
            return len([each for each in done if each.state == good]) > before + 1

        await until(fired, "the schedule to fire")
        with pytest.raises(UnauthenticatedError):
            await client.delete_schedule(name)
        await operator.delete_function(name, force=True)
    await asyncio.to_thread(server.settle)
    await asyncio.to_thread(server.stop)


def test_the_log_says_who_changed_what(server: Server) -> None:
    key = secret(server, "ci", "--role", "developer")
    name = new_id()
    with Client(server.address, token=key) as client:
        client.create_function(name, image=BUSYBOX, pull_policy="never", env={"KEY": "geheim"})
        client.get_function(name)
    server.stop()
    lines = [json.loads(line) for line in server.log().splitlines() if '"caller"' in line]
    told = [(each["caller"], each["rpc"].rpartition("/")[2], each["resource"]) for each in lines]
    assert told == [
        ("the operator's token", "CreateToken", "tokens/ci"),
        ("tokens/ci", "CreateFunction", f"namespaces/default/functions/{name}"),
    ]
    assert key not in server.log()
    assert "geheim" not in server.log()
