"""Prometheus: how long calls took, by method and status, and the page that shows it over HTTP."""

from __future__ import annotations

import asyncio
from threading import Thread
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, start_http_server

from skybridge_server.config import Address, SettingsError

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


def new_registry() -> CollectorRegistry:
    """Return a registry with the numbers of this process: memory, processor time, descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class CallMetrics:
    """Counts calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "grpc_server_call_duration_seconds",
            "Time from the start of a call to its end, by method and status.",
            ["grpc_method", "grpc_status"],
            buckets=BUCKETS,
            registry=registry,
        )
        # Finding a child by its labels costs more than observing.
        self._children: dict[tuple[str, grpc.StatusCode], Histogram] = {}

    def observe(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        child = self._children.get((method, code))
        if child is None:
            child = self._seconds.labels(method, code.name)
            self._children[method, code] = child
        child.observe(seconds)


class MetricsPage:
    """Serves a registry as text over HTTP, from a thread of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._running: tuple[WSGIServer, Thread] | None = None

    def start(self, address: Address) -> Address:
        """Listen, and return where; port 0 asks for a free one. SettingsError."""
        try:
            self._running = start_http_server(address.port, address.host, self._registry)
        except OSError as error:
            raise SettingsError.of(
                "metrics_listen", f"cannot listen on {address}: {error}"
            ) from None
        return Address(address.host, self._running[0].server_port)

    async def stop(self) -> None:
        """Stop listening; takes up to half a second."""
        if self._running is None:
            return
        server, thread = self._running
        self._running = None
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
