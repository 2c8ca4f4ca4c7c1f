"""Reflection v1 and v1alpha, asked by the tools that people use: grpcurl of 2022 and buf curl."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from skybridge_server.errors import FieldViolation, InvalidArgumentError
from tests.api.tiny import SERVICES, Tiny
from tests.support.waiting import PATIENCE

SCRIPTS = Path(sysconfig.get_path("scripts"))
STANDARD = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


@dataclass(frozen=True)
class Ran:
    """What a program printed, and how it ended."""

    code: int
    out: str
    err: str


async def run(program: str, *arguments: str) -> Ran:
    process = await asyncio.create_subprocess_exec(
        str(SCRIPTS / program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def grpcurl(tiny: Tiny, *arguments: str, data: str = "{}") -> Ran:
    return await run("grpcurl", "-plaintext", "-d", data, str(tiny.address), *arguments)


async def buf_curl(tiny: Tiny, protocol: str, *arguments: str) -> Ran:
    return await run(
        "buf",
        "curl",
        "--protocol=grpc",
        "--http2-prior-knowledge",
        f"--reflect-protocol={protocol}",
        *arguments[:-1],
        f"http://{tiny.address}{arguments[-1]}",
    )


async def test_grpcurl_lists_every_service(tiny: Tiny) -> None:
    listed = await grpcurl(tiny, "list")
    assert listed.out.split() == sorted([*SERVICES, *STANDARD]), listed.err


@pytest.mark.parametrize("service", [*SERVICES, *STANDARD])
async def test_grpcurl_describes_every_service(tiny: Tiny, service: str) -> None:
    described = await grpcurl(tiny, "describe", service)
    assert described.out.startswith(f"{service} is a service:"), described.err


async def test_grpcurl_describes_messages_and_files_of_others(tiny: Tiny) -> None:
    described = await grpcurl(tiny, "describe", "google.rpc.ErrorInfo")
    assert "map<string, string> metadata" in described.out, described.err
    described = await grpcurl(tiny, "describe", "skybridge.faas.v1.GetSystemInfoResponse")
    assert ".google.protobuf.Duration uptime" in described.out, described.err


async def test_grpcurl_describes_methods(tiny: Tiny) -> None:
    described = await grpcurl(tiny, "describe", "skybridge.faas.v1.SystemService.GetSystemInfo")
    assert "is a method:" in described.out, described.err
    unknown = await grpcurl(tiny, "describe", "skybridge.faas.v1.SystemService.GetNothing")
    assert "Symbol not found" in unknown.err


async def test_grpcurl_calls(tiny: Tiny) -> None:
    called = await grpcurl(tiny, "skybridge.faas.v1.SystemService/GetSystemInfo")
    assert json.loads(called.out) == {"version": "tiny"}, called.err
    streamed = await grpcurl(tiny, "skybridge.faas.v1.SystemService/PullImage")
    assert json.loads(streamed.out)["image"] == {"image_id": "sha256:1"}, streamed.err


async def test_grpcurl_calls_health(tiny: Tiny) -> None:
    listed = await grpcurl(tiny, "grpc.health.v1.Health/List")
    assert json.loads(listed.out)["statuses"][""] == {"status": "SERVING"}, listed.err
    checked = await grpcurl(
        tiny, "grpc.health.v1.Health/Check", data='{"service": "skybridge.faas.v1.SystemService"}'
    )
    assert json.loads(checked.out) == {"status": "SERVING"}, checked.err


async def test_grpcurl_shows_error_details(tiny: Tiny) -> None:
    async def info() -> None:
        raise InvalidArgumentError(FieldViolation("name", "is required"))

    tiny.script.info = info  # type: ignore[assignment]
    called = await grpcurl(tiny, "skybridge.faas.v1.SystemService/GetSystemInfo")
    assert called.code == 64 + 3
    assert '"reason":"INVALID_FIELDS"' in called.err.replace(" ", "")
    assert '"field":"name"' in called.err.replace(" ", "")


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
async def test_buf_curl_through_either_version(tiny: Tiny, protocol: str) -> None:
    called = await buf_curl(tiny, protocol, "/skybridge.faas.v1.SystemService/GetSystemInfo")
    assert json.loads(called.out) == {"version": "tiny"}, called.err


async def test_buf_curl_lists_methods(tiny: Tiny) -> None:
    listed = await buf_curl(tiny, "grpc-v1", "--list-methods", "")
    assert "grpc.health.v1.Health/List" in listed.out.split(), listed.err
    assert "skybridge.faas.v1.FunctionService/CreateFunction" in listed.out.split()
