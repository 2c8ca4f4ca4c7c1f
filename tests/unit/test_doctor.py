"""What the doctor finds on machines in order and out of order."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from skybridge_server import app, doctor
from skybridge_server.config import Settings
from skybridge_server.doctor import Finding, Health
from skybridge_server.errors import ContainerStartError, RuntimeUnavailableError
from skybridge_server.repositories.schema import migrate, newest_version
from skybridge_server.runtimes.base import EngineInfo


class StubRuntime:
    """An engine that lacks these limits, or does not answer."""

    def __init__(self, unsupported: tuple[str, ...] | None) -> None:
        self.unsupported = unsupported
        self.closed = False

    async def check(self) -> EngineInfo:
        if self.unsupported is None:
            raise RuntimeUnavailableError("the container engine does not answer")
        return EngineInfo("docker 1", "1.41", "linux/amd64", 2, (), self.unsupported)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that does not answer, a database folder of its own, free ports."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(doctor, "runtimes", lambda _: {"docker": StubRuntime(None)})
    monkeypatch.setenv("FAAS_DATABASE", str(tmp_path / "state" / "skybridge.db"))
    monkeypatch.setenv("FAAS_LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("FAAS_METRICS_LISTEN", "127.0.0.1:0")


async def find(subject: str) -> Finding:
    findings = [finding for finding in await doctor.examine() if finding.subject == subject]
    assert len(findings) == 1, findings
    assert bool(findings[0].remedy) == (findings[0].health is not Health.OK)
    return findings[0]


async def test_all_is_looked_at() -> None:
    findings = {finding.subject: finding.health for finding in await doctor.examine()}
    assert findings == {
        "settings": Health.OK,
        "engine docker": Health.BROKEN,
        "database": Health.OK,
        "disk": Health.OK,
        "address 127.0.0.1:0": Health.OK,
        "TLS": Health.OK,
        "open files": findings["open files"],
    }


async def test_wrong_settings_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_MAX_PIDS", "many")
    monkeypatch.setenv("FAAS_LISTNE", "x")
    findings = await doctor.examine()
    assert [(f.subject, f.health) for f in findings] == [
        ("settings", Health.WARNING),
        ("settings", Health.BROKEN),
    ]
    assert "FAAS_LISTEN" in findings[0].message
    assert "FAAS_MAX_PIDS" in findings[1].message


async def test_a_runtime_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "runtimes", app.runtimes)
    monkeypatch.setenv("FAAS_DEFAULT_RUNTIME", "abacus")
    assert "FAAS_DEFAULT_RUNTIME" in (await find("engine")).message


async def test_a_missing_engine() -> None:
    assert "install and start Docker" in (await find("engine docker")).remedy


async def test_an_engine_that_has_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(str(path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert (await find("engine docker")).remedy == "start it: sudo systemctl start docker"


async def test_an_engine_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert "DOCKER_HOST" in (await find("engine docker")).remedy


def test_an_engine_whose_socket_is_forbidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "docker.sock"
    path.touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG" in doctor.engine_remedy()


@pytest.mark.parametrize("unsupported", [(), ("resources.pids",)])
async def test_limits_that_an_engine_lacks(
    monkeypatch: pytest.MonkeyPatch, unsupported: tuple[str, ...]
) -> None:
    runtime: Any = StubRuntime(unsupported)
    monkeypatch.setattr(doctor, "runtimes", lambda _: {"docker": runtime})
    found = await find("engine docker, limits")
    assert found.health is (Health.WARNING if unsupported else Health.OK)
    assert all(field in found.message for field in unsupported)
    assert (await find("engine docker")).health is Health.OK
    assert runtime.closed


class StubPorts(StubRuntime):
    """An engine the ports of whose containers are reached in a way, or not at all."""

    def __init__(self, way: str) -> None:
        super().__init__(())
        self.way = way

    async def connect(self, container_id: str, port: int) -> socket.socket:
        raise NotImplementedError

    async def listen(self, container_id: str, port: int, accepted: Any) -> Any:
        raise NotImplementedError

    async def way_to_ports(self) -> str:
        if not self.way:
            raise ContainerStartError("the server cannot enter the container's network")
        return self.way


async def test_ports_of_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = StubPorts("by relay")
    monkeypatch.setattr(doctor, "runtimes", lambda _: {"docker": runtime})
    assert (await find("engine docker, ports")).message == "are reached by relay"
    runtime.way = ""
    found = await find("engine docker, ports")
    assert found.health is Health.BROKEN
    assert "FAAS_PORT_ACCESS" in found.remedy


def database(settings: Settings) -> Path:
    settings.database.parent.mkdir(parents=True, exist_ok=True)
    return settings.database


async def test_a_database_of_this_version() -> None:
    migrate(database(Settings()))
    found = await find("database")
    assert found.health is Health.OK
    assert f"version {newest_version()}" in found.message


async def test_a_database_of_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database(Settings()))
    monkeypatch.setattr(doctor, "newest_version", lambda: 0)
    assert (await find("database")).health is Health.BROKEN


async def test_a_file_that_is_no_database() -> None:
    database(Settings()).write_text("no database, but longer than a header of SQLite " * 20)
    found = await find("database")
    assert found.health is Health.BROKEN
    assert "cannot be used" in found.message


async def test_a_database_without_tables_yet() -> None:
    sqlite3.connect(database(Settings())).close()
    assert (await find("database")).health is Health.OK


@pytest.mark.parametrize("exists", [True, False])
async def test_a_folder_that_is_forbidden(monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    if exists:
        migrate(database(Settings()))
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = await find("database")
    assert found.health is Health.BROKEN
    assert "FAAS_DATABASE" in found.remedy


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "health"),
    [(2**30, Health.OK), (2**30 - 1, Health.WARNING), (99 * 2**20, Health.BROKEN)],
)
async def test_disks(monkeypatch: pytest.MonkeyPatch, free: int, health: Health) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    assert (await find("disk")).health is health


async def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        used = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("FAAS_LISTEN", used)
        monkeypatch.setenv("FAAS_ADMIN_LISTEN", "unix:/no/folder/s.sock")
        in_use, impossible = (
            await find(f"address {used}"),
            await find("address unix:/no/folder/s.sock"),
        )
    assert (in_use.health, in_use.message) == (Health.WARNING, "is in use")
    assert "FAAS_LISTEN" in in_use.remedy
    assert impossible.health is Health.BROKEN
    assert "FAAS_ADMIN_LISTEN" in impossible.remedy


async def test_tls_that_is_off_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_LISTEN", "0.0.0.0:0")
    monkeypatch.setenv("FAAS_INSECURE", "true")
    assert (await find("TLS")).health is Health.WARNING


async def test_tls_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    monkeypatch.setenv("FAAS_TLS_CERT", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("FAAS_TLS_KEY", str(tmp_path / "key.pem"))
    assert (await find("TLS")).health is Health.OK
    (tmp_path / "key.pem").unlink()
    assert "FAAS_TLS_KEY" in (await find("TLS")).message


@pytest.mark.parametrize("soft", [1024, 4096, resource.RLIM_INFINITY])
async def test_open_files(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert (await find("open files")).health is (Health.WARNING if soft == 1024 else Health.OK)
