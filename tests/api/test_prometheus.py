"""The page of numbers, over HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server.api.prometheus import MetricsPage, new_registry
from skybridge_server.config import Address, SettingsError
from tests.api.tiny import LOOPBACK, Tiny
from tests.support.waiting import PATIENCE


async def fetch(address: Address) -> str:
    def get() -> str:
        with urlopen(f"http://{address}/metrics", timeout=PATIENCE) as page:
            return str(page.read().decode())

    return await asyncio.to_thread(get)


async def test_calls_show_on_the_page(tiny: Tiny) -> None:
    await tiny.system.GetSystemInfo(pb.GetSystemInfoRequest())
    page = MetricsPage(tiny.registry)
    address = page.start(LOOPBACK)
    try:
        text = await fetch(address)
    finally:
        await page.stop()
    assert (
        'grpc_server_call_duration_seconds_count{grpc_method="skybridge.faas.v1.SystemService/'
        'GetSystemInfo",grpc_status="OK"} 1.0'
    ) in text


async def test_the_process_shows_on_the_page() -> None:
    page = MetricsPage(new_registry())
    address = page.start(LOOPBACK)
    try:
        assert "process_resident_memory_bytes" in await fetch(address)
    finally:
        await page.stop()


async def test_stop_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    page = MetricsPage(CollectorRegistry())
    address = page.start(LOOPBACK)
    await page.stop()
    await page.stop()
    assert {thread for thread in threading.enumerate() if thread not in before} <= {
        thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")
    }
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=PATIENCE)


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        with pytest.raises(SettingsError) as caught:
            MetricsPage(CollectorRegistry()).start(address)
    assert str(caught.value).startswith(f"FAAS_METRICS_LISTEN: cannot listen on {address}: ")
