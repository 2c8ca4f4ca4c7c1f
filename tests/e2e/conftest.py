"""Real servers, a real engine, real registries. Nothing here is a stand-in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest

from skybridge_client import AsyncClient, Client, Patience
from tests.support.functions import BUSYBOX, new_id
from tests.support.server import Server
from tests.support.waiting import PATIENCE, wait_until

CONCURRENCY = 8
THREADS_TO_COME = 8
DESCRIPTORS_TO_COME = 16
"""What pools that were not yet full may add; test_leaks.py looks closer."""

Serve = Callable[..., Server]


class Servers(list[Server]):
    """The servers of one test."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, Any]:
    """Show what the servers of a failed test said."""
    report = yield
    if report.failed:
        given = getattr(item, "funcargs", {})
        for server in (*given.get("servers", ()), *filter(None, [given.get("server")])):
            report.sections.append((f"log of the server at {server.address}", server.log_tail()))
    return report


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    for server in started:
        server.discard()


@pytest.fixture
def serve(servers: Servers, tmp_path: Path) -> Serve:
    """Start servers that a test may stop, kill and set as it likes."""

    def start(*, ready: bool = True, **settings: str) -> Server:
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir()
        server = Server(folder, **settings)
        servers.append(server)
        if ready:
            server.start()
        return server

    return start


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not disturb it; at the end it stops in peace."""
    server = Server(
        tmp_path_factory.mktemp("server"), FAAS_MAX_CONCURRENT_EXECUTIONS=str(CONCURRENCY)
    )
    try:
        server.start()
        warm_up(server)
        yield server
        server.stop()
    finally:
        server.discard()


def warm_up(server: Server) -> None:
    """Let its pools grow, so that growth seen later is a leak."""
    name = new_id()
    with Client(server.address) as client, ThreadPoolExecutor(CONCURRENCY) as threads:
        client.create_function(name, image=BUSYBOX, command=["true"], pull_policy="never")
        list(client.deploy(name))
        list(threads.map(client.execute, [name] * CONCURRENCY))
    server.settle()


@pytest.fixture(scope="module")
def server(shared_server: Server) -> Iterator[Server]:
    """Lend the shared server to a module, which must give it back as it was."""
    before = shared_server.level()
    yield shared_server
    shared_server.settle()

    def settled() -> bool:
        now = shared_server.level()
        return (
            now.threads <= before.threads + THREADS_TO_COME
            and now.descriptors <= before.descriptors + DESCRIPTORS_TO_COME
        )

    wait_until(settled, f"threads and descriptors to go back to {before}")


@pytest.fixture
async def client(server: Server) -> AsyncGenerator[AsyncClient, None]:
    """Talk to the shared server; a cut stream is an error here, not something to mend."""
    once = Patience(tries=1, first_tries=1)
    async with AsyncClient(server.address, patience=once, timeout=PATIENCE) as client:
        yield client
