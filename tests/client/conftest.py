"""A scripted server, and both clients behind one way to call them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme

from skybridge_client import AsyncClient, Client, Patience
from tests.client.scripted import Scripted, serve
from tests.support.waiting import PATIENCE

QUICK = Patience(tries=3, first_tries=3, first_pause=0.001, longest_pause=0.002)


class Call(Protocol):
    """Calls a method of a client of either kind; what it gives piece by piece comes as a list."""

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any: ...


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the machine's own environment says."""
    for name in ("ADDRESS", "TOKEN", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"SKYBRIDGE_{name}", raising=False)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    running = serve(scripted)
    yield scripted
    running.stop(0).wait(PATIENCE)


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
    if method == "invoke_stream":
        args = (each(args[0]),)
    async with AsyncClient(address, patience=QUICK) as client:
        answer = getattr(client, method)(*args, **kwargs)
        if inspect.isasyncgen(answer):
            return [item async for item in answer]
        return await answer


async def each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and server and client certificates that it signed."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("server", "client"):
        issued = ca.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.pem").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    return folder
