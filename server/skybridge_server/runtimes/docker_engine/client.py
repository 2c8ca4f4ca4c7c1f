"""Calls of docker-py, which blocks, from coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import DockerException
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env, parse_host

from skybridge_server.errors import RuntimeUnavailableError
from skybridge_server.runtimes.docker_engine import engine_age
from skybridge_server.runtimes.docker_engine.errors import UNREACHABLE, unavailable
from skybridge_server.runtimes.docker_engine.unix_socket import OnePool

T = TypeVar("T")

SHORT_THREADS = 8  # saturate an engine; more only steal time from the event loop
TIMEOUT_SECONDS = 60
PROBE_SECONDS = 1.4
NEGOTIATION_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that has answered: clients that speak its version, and what it said of itself."""

    short: APIClient
    long: APIClient
    """For waits and pulls, so that they never take a connection from a short call."""
    probe: APIClient
    """For signs of life: gives up early."""
    version: Mapping[str, Any]
    info: Mapping[str, Any]
    began: float | None
    """When its process began, as seconds since 1970; None: unknown."""

    @property
    def local(self) -> bool:
        """Whether it is on this host, as far as its address tells."""
        return self.short.base_url.startswith("http+docker://")

    @property
    def encrypted(self) -> bool:
        return self.short.base_url.startswith("https://")


class EngineClient:
    """Runs calls in threads, connects when first used, and again after the engine was away."""

    def __init__(self, environment: Mapping[str, str] | None, max_waits: int) -> None:
        self._environment = environment
        self._max_waits = max_waits
        self._engine: Engine | None = None
        self._connecting = threading.Lock()
        self._closed = False
        self._short = ThreadPoolExecutor(SHORT_THREADS, "docker-call")
        # One more, as one waits for events all the time.
        self._long = ThreadPoolExecutor(max_waits + 1, "docker-wait")

    @property
    def current(self) -> Engine | None:
        """The engine as last seen; None before the first call, and after a failure."""
        return self._engine

    async def connected(self) -> Engine:
        """Return the engine, asking for it first where that was never done."""
        if self._engine is None:
            return await self.call(lambda engine: engine)
        return self._engine

    async def call(
        self, work: Callable[[Engine], T], undo: Callable[[Engine, T], object] | None = None
    ) -> T:
        """Run a short call; raises docker-py's APIError, and RuntimeUnavailableError.

        If the caller is cancelled, work that has begun goes on, and `undo` gets its result.
        """
        return await self._run(self._short, work, undo)

    async def long_call(
        self, work: Callable[[Engine], T], undo: Callable[[Engine, T], object] | None = None
    ) -> T:
        """Run a call that may take as long as a container or a download."""
        return await self._run(self._long, work, undo)

    def close(self) -> None:
        """Let go of the connections; calls that have begun end on their own."""
        self._closed = True
        for executor in (self._short, self._long):
            executor.shutdown(wait=False)
        if self._engine:
            for client in (self._engine.short, self._engine.long, self._engine.probe):
                client.close()

    async def _run(
        self,
        executor: Executor,
        work: Callable[[Engine], T],
        undo: Callable[[Engine, T], object] | None,
    ) -> T:
        future = executor.submit(self._call, work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo:
                # Behind `work` in the executor's queue, so that waiting for it cannot deadlock.
                executor.submit(self._undo, future, undo)
            raise

    def _call(self, work: Callable[[Engine], T]) -> T:
        engine = self._connect()
        try:
            return work(engine)
        except UNREACHABLE as error:
            failure = unavailable(error)
            if failure is error:  # the engine has answered
                raise
            self._forget(engine)
            raise failure from error

    def _undo(self, future: Future[T], undo: Callable[[Engine, T], object]) -> None:
        # Neither work that failed nor an engine that went away leaves anything to be told.
        with suppress(asyncio.CancelledError, Exception):
            result = future.result()
            self._call(lambda engine: undo(engine, result))

    def _connect(self) -> Engine:
        with self._connecting:
            if self._engine is None:
                if self._closed:
                    raise RuntimeUnavailableError("the server stops, and the engine is away")
                try:
                    self._engine = self._open()
                except UNREACHABLE as error:
                    raise unavailable(error) from error
            return self._engine

    def _open(self) -> Engine:
        environment = dict(self._environment) if self._environment is not None else None
        address: dict[str, Any] = {**kwargs_from_env(environment=environment)}
        address["version"] = MINIMUM_DOCKER_API_VERSION
        with closing(_client(address, timeout=NEGOTIATION_SECONDS)) as unversioned:
            version = unversioned.version(api_version=False)
        if "ApiVersion" not in version:
            raise DockerException("what answers there is no Docker Engine")
        address["version"] = version["ApiVersion"]
        short = _client(address, max_pool_size=SHORT_THREADS)
        return Engine(
            short=short,
            # Waits keep their connections without a thread, pulls with one.
            long=_client(address, max_pool_size=2 * self._max_waits + 1),
            probe=_client(address, timeout=PROBE_SECONDS),
            version=version,
            info=short.info(),
            began=engine_age.began(parse_host(address.get("base_url"))),
        )

    def _forget(self, engine: Engine) -> None:
        """Negotiate anew: what comes back may be another engine."""
        with self._connecting:
            if self._engine is engine:
                self._engine = None


def _client(address: Mapping[str, Any], **options: float) -> APIClient:
    client = APIClient(**{"timeout": TIMEOUT_SECONDS, **address, **options})
    # Else a REQUESTS_CA_BUNDLE would beat the engine's authority, and a proxy get its calls.
    client.trust_env = False
    adapter = client.get_adapter(client.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        client.mount(client.base_url, OnePool.like(adapter))
    return client
