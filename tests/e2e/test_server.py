"""The server itself: stopped, killed, started again, started twice, behind TLS."""

from __future__ import annotations

import asyncio
import signal
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme

from skybridge.faas.v1.system_service_pb2 import GetSystemInfoRequest
from skybridge.faas.v1.system_service_pb2_grpc import SystemServiceStub
from skybridge_client import (
    AsyncClient,
    Client,
    Execution,
    Patience,
    TlsConfig,
)
from tests.support.functions import (
    BUSYBOX,
    GATED,
    PATIENT,
    QUEUED,
    RUNNING,
    STUBBORN,
    collect,
    deploy,
    output,
    reach,
    states,
    told,
)
from tests.support.server import Server
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
STUBBORN_CALLER = Patience(tries=100, first_tries=100, first_pause=0.05, longest_pause=0.2)
EX_CONFIG = 78


async def stop(server: Server) -> None:
    await asyncio.to_thread(server.stop)


async def start_queued(client: AsyncClient) -> Execution:
    """Start an execution behind one that has the only place."""
    waiting = await client.start(await deploy(client, "cat"), b"still here")
    assert waiting.state == QUEUED
    return waiting


async def check_queued_ran(client: AsyncClient, name: str) -> None:
    ended = await client.wait(name, timeout=PATIENCE)
    assert (told(ended)[0], ended.output) == ("SUCCEEDED", b"still here")


# -- SIGTERM -------------------------------------------------------------------------------------


async def test_a_stop_lets_what_runs_end_well(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy(client, "trap '' TERM; echo ready; sleep 1; echo done")
        events = []
        stopping: asyncio.Task[None] | None = None
        async for event in client.stream(name):
            events.append(event)
            if stopping is None and event.HasField("output"):
                stopping = asyncio.create_task(stop(server))

        assert output(events) == b"ready\ndone\n"
        assert states(events)[-1] == "SUCCEEDED"
        assert stopping
        await stopping


async def test_a_stop_ends_what_runs_too_long_and_keeps_what_waits(serve: Serve) -> None:
    server = serve(FAAS_SHUTDOWN_GRACE="1s", FAAS_MAX_CONCURRENT_EXECUTIONS="1")
    async with AsyncClient(server.address) as client:
        running = await client.start(await deploy(client, PATIENT))
        await reach(client, running.name, RUNNING)
        waiting = await start_queued(client)

    await stop(server)
    server.start()

    async with AsyncClient(server.address) as client:
        ended = await client.get_execution(running.name)
        assert told(ended) == ("CANCELLED", "CANCELLED")
        assert (ended.exit_code, ended.failure.message) == (143, "the server was stopped")
        await check_queued_ran(client, waiting.name)
        server.settle()
    await stop(server)


def refuses(address: str) -> bool:
    """Tell whether nobody listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("draining", [False, True], ids=["at once", "when calls have ended"])
async def test_a_second_signal_stops_what_runs_at_once(serve: Serve, draining: bool) -> None:
    """Functions still get their own grace, and their containers are removed."""
    server = serve(FAAS_SHUTDOWN_GRACE="10m")
    async with AsyncClient(server.address) as client:
        running = await client.start(await deploy(client, STUBBORN, shutdown_grace=0.3))
        await reach(client, running.name, RUNNING)

    server.signal(signal.SIGTERM)
    server.wait_for("stopping; a second signal does not wait for running calls")
    if draining:
        await asyncio.to_thread(wait_until, lambda: refuses(server.address), "the port to close")
    server.signal(signal.SIGTERM)

    assert await asyncio.to_thread(server.wait) == 1
    assert server.containers() == []
    server.start()
    async with AsyncClient(server.address) as client:
        ended = await client.get_execution(running.name)
        assert (told(ended), ended.exit_code) == (("CANCELLED", "CANCELLED"), 137)
    await stop(server)


# -- SIGKILL -------------------------------------------------------------------------------------


async def test_after_a_crash_what_ran_goes_on_and_what_waited_runs(serve: Serve) -> None:
    server = serve(FAAS_MAX_CONCURRENT_EXECUTIONS="1")
    request_id = str(uuid.uuid4())
    async with AsyncClient(server.address, patience=STUBBORN_CALLER) as client:
        echo = await deploy(client, "cat")
        done = await client.execute(echo, b"done", request_id=request_id)
        running = await client.start(await deploy(client, GATED))
        following = asyncio.create_task(collect(client.watch(running.name)))
        await reach(client, running.name, RUNNING)
        waiting = await start_queued(client)
        async for entry in client.logs(running.name, follow=True):
            assert entry.output.data == b"ready\n"
            break

        server.kill()
        (container,) = server.containers()
        server.start()
        await asyncio.to_thread(container.kill, "SIGUSR1")

        events = await following
        assert states(events) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
        assert output(events) == b"ready\ndone\n"
        assert not any(event.HasField("gap") for event in events)
        await check_queued_ran(client, waiting.name)
        assert await client.get_execution(done.name) == done
        assert await client.execute(echo, b"done", request_id=request_id) == done
        server.settle()
    await stop(server)


# -- starting ------------------------------------------------------------------------------------


async def test_two_servers_never_share_a_database(serve: Serve) -> None:
    first = serve()
    second = serve(ready=False, FAAS_DATABASE=first.setting("FAAS_DATABASE"))

    second.launch()

    assert await asyncio.to_thread(second.wait) == 1
    assert "another server" in second.log()
    async with AsyncClient(first.address) as client:
        assert (await client.execute(await deploy(client, "echo on"))).output == b"on\n"
        first.settle()
    await stop(first)


async def test_a_port_in_use_is_told(serve: Serve) -> None:
    first = serve()
    second = serve(ready=False, FAAS_LISTEN=first.address)

    second.launch()

    assert await asyncio.to_thread(second.wait) == EX_CONFIG
    assert "FAAS_LISTEN" in second.log()
    assert first.address in second.log()
    await stop(first)


# -- TLS -----------------------------------------------------------------------------------------


def issue(authority: trustme.CA, name: str, folder: Path) -> TlsConfig:
    """Write a certificate for `name`; trust stays with the authority of the folder."""
    issued = authority.issue_cert(name)
    stem = uuid.uuid4().hex
    cert, key = folder / f"{stem}.cert.pem", folder / f"{stem}.key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return TlsConfig(ca=folder / "ca.pem", cert=cert, key=key)


def test_callers_without_the_right_certificate_get_nowhere(serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = issue(authority, "127.0.0.1", tmp_path)
    known = issue(authority, "caller@example.org", tmp_path)
    stranger = issue(trustme.CA(), "caller@example.org", tmp_path)
    server = serve(
        ready=False,
        FAAS_TLS_CERT=str(own.cert),
        FAAS_TLS_KEY=str(own.key),
        FAAS_TLS_CLIENT_CA=str(tmp_path / "ca.pem"),
    )
    server.tls = known
    server.start()

    for credentials in (
        grpc.local_channel_credentials(),
        TlsConfig(ca=known.ca).credentials(),
        stranger.credentials(),
    ):
        with (
            grpc.secure_channel(server.address, credentials) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            SystemServiceStub(channel).GetSystemInfo(GetSystemInfoRequest(), timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with Client(server.address, tls=known) as client:
        client.create_function("hello", image=BUSYBOX, command=["echo", "sealed"])
        list(client.deploy("hello"))
        assert client.execute("hello").output == b"sealed\n"
    server.settle()
    server.stop()
