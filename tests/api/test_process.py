"""The server as a process of its own: ready line, signals, exit codes. No engine is needed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from skybridge_server.config import load_settings
from skybridge_server.process import _risk
from tests.support.waiting import PATIENCE

GRPC_ADDRESS = re.compile(r"grpc\W+(127\.0\.0\.1:\d+)")
TLS = {"FAAS_TLS_CERT": "cert.pem", "FAAS_TLS_KEY": "key.pem"}


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: asyncio.subprocess.Process
    ready: str
    channel: grpc.aio.Channel

    async def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what it said."""
        async with asyncio.timeout(PATIENCE):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, (out + err).decode()

    def watch_health(self) -> Any:
        call: Any = self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        return call(HealthCheckRequest())


async def start(folder: Path, **settings: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "skybridge_server",
        "serve",
        env={
            **os.environ,
            "DOCKER_HOST": "unix:///nowhere/docker.sock",
            "FAAS_DATABASE": str(folder / "skybridge.db"),
            "FAAS_LISTEN": "127.0.0.1:0",
            "FAAS_METRICS_LISTEN": "127.0.0.1:0",
            **settings,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def serving(folder: Path, **settings: str) -> AsyncGenerator[Server, None]:
    process = await start(folder, **settings)
    stream = process.stderr if settings["FAAS_LOG_FORMAT"] == "json" else process.stdout
    assert stream is not None
    try:
        async with asyncio.timeout(PATIENCE):
            while "ready" not in (line := (await stream.readline()).decode()):
                assert line, "the server has ended"
        match = GRPC_ADDRESS.search(line)
        assert match is not None
        async with grpc.aio.insecure_channel(match[1]) as channel:
            yield Server(process, line, channel)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def refusal(folder: Path, **settings: str) -> tuple[int, str]:
    """Return the exit code of a server that cannot start, and what it says last."""
    process = await start(folder, **settings)
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert out == b""
    assert b"Traceback" not in err
    return process.returncode or 0, err.decode().splitlines()[-1]


async def test_for_people_one_line_says_that_it_is_ready(tmp_path: Path) -> None:
    async with serving(tmp_path, FAAS_LOG_FORMAT="console") as server:
        assert re.fullmatch(
            r"skybridge-server \S+ is ready: grpc 127\.0\.0\.1:\d+, runtime the container engine "
            r"does not answer: No such file or directory, metrics http://127\.0\.0\.1:\d+/metrics\n",
            server.ready,
        )
        assert (await server.watch_health().read()).status == HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert (await server.end())[0] == 0


async def test_for_programs_ready_is_a_log_line(tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin.sock"
    async with serving(
        tmp_path, FAAS_LOG_FORMAT="json", FAAS_ADMIN_LISTEN=admin, FAAS_LISTNE="x"
    ) as server:
        ready = json.loads(server.ready)
        assert (ready["event"], ready["admin"]) == ("ready", admin)
        server.process.send_signal(signal.SIGINT)
        code, said = await server.end()
    assert code == 0
    assert [json.loads(line)["event"] for line in said.splitlines()] == [
        "stopping; a second signal does not wait for running calls"
    ]


async def test_a_reader_of_the_log_that_leaves_does_not_keep_it_from_stopping(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, FAAS_LOG_FORMAT="json") as server, asyncio.timeout(PATIENCE):
        pipe: Any = server.process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]
        pipe.close()
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0


async def test_a_second_signal_does_not_wait_for_running_calls(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, FAAS_LOG_FORMAT="json", FAAS_SHUTDOWN_GRACE="1h") as server,
        asyncio.timeout(PATIENCE),
    ):
        method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        running: Any = server.channel.stream_stream(method)()
        await running.write(b":\x00")  # list_services
        await running.read()
        watch = server.watch_health()
        await watch.read()
        server.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == HealthCheckResponse.NOT_SERVING
        assert not running.done()
        server.process.send_signal(signal.SIGTERM)
        code, said = await server.end()
    assert code == 1
    assert "stopped without waiting for running calls" in said
    assert "Traceback" not in said


async def test_a_port_in_use_is_a_wrong_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for setting in ("FAAS_LISTEN", "FAAS_METRICS_LISTEN", "FAAS_ADMIN_LISTEN"):
            code, said = await refusal(tmp_path, **{setting: address})
            assert code == 78
            assert said.startswith(f"{setting}: cannot listen on {address}")


async def test_what_is_open_to_others_without_tls_is_warned_of(tmp_path: Path) -> None:
    process = await start(
        tmp_path, FAAS_LISTEN="0.0.0.0:0", FAAS_INSECURE="true", FAAS_LOG_FORMAT="json"
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            first = json.loads(await process.stderr.readline())
        assert (first["level"], first["listen"]) == ("warning", "0.0.0.0:0")
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FAAS_INSECURE": "true"}, "no TLS: who reaches it may run code"),
        ({"FAAS_INSECURE": "true", "FAAS_ADMIN_TOKEN": "t" * 32}, "learns its callers' tokens"),
        (TLS, "neither FAAS_ADMIN_TOKEN nor FAAS_TLS_CLIENT_CA"),
        ({**TLS, "FAAS_TLS_CLIENT_CA": "c"}, ""),
        ({**TLS, "FAAS_ADMIN_TOKEN": "t" * 32}, ""),
    ],
)
def test_what_to_think_of_before_others_reach_it(
    settings: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FAAS_LISTEN": "0.0.0.0:1", **settings}.items():
        monkeypatch.setenv(name, value)
    risk = _risk(load_settings())
    assert said in risk if said else risk == ""


async def test_a_broken_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "skybridge.db").write_text("no database, but longer than a header of SQLite " * 20)
    code, said = await refusal(tmp_path)
    assert code == 1
    assert said.startswith("error: the database")
