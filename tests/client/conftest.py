"""A scripted server, and both clients behind one way to call them."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from skybridge_client import AsyncClient, Client, Patience
from tests.client.scripted import Scripted, serve

QUICK = Patience(tries=3, first_tries=3, first_pause=0.001, longest_pause=0.002)


class Call(Protocol):
    """Calls a method of a client of either kind; what it gives piece by piece comes as a list."""

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any: ...


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the machine's own environment says."""
    for name in ("ADDRESS", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"SKYBRIDGE_{name}", raising=False)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    running = serve(scripted)
    yield scripted
    running.stop(0).wait(10)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, server: Scripted) -> Call:
    if request.param == "sync":
        return lambda method, *args, **kwargs: call_sync(server.address, method, *args, **kwargs)
    return lambda method, *args, **kwargs: asyncio.run(
        call_async(server.address, method, *args, **kwargs)
    )


def call_sync(address: str, method: str, *args: Any, **kwargs: Any) -> Any:
    with Client(address, patience=QUICK) as client:
        answer = getattr(client, method)(*args, **kwargs)
        return list(answer) if inspect.isgenerator(answer) else answer


async def call_async(address: str, method: str, *args: Any, **kwargs: Any) -> Any:
    if method == "attach":
        function, source, *rest = args
        args = (function, each(source), *rest)
    async with AsyncClient(address, patience=QUICK) as client:
        answer = getattr(client, method)(*args, **kwargs)
        if inspect.isasyncgen(answer):
            return [item async for item in answer]
        return await answer


async def each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server and client certificates that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(folder, *new, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(
            folder, *new[:-2], "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "request"
        )
        signed = ("-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(folder, "x509", "-req", *signed, "-extfile", "names", "-out", f"{name}.pem")
    return folder
