"""Examines whether a server can work on this machine, and says how to mend what is broken."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from skybridge_server.api.listen import check_free
from skybridge_server.api.tls import server_context
from skybridge_server.app import runtimes
from skybridge_server.config import (
    Address,
    Settings,
    SettingsError,
    load_settings,
    unknown_variables,
    variable_of,
)
from skybridge_server.errors import (
    FailedPreconditionError,
    RuntimeUnavailableError,
    SkybridgeError,
)
from skybridge_server.repositories.schema import newest_version, schema_version
from skybridge_server.runtimes.base import EngineInfo, Runtime, SupportsPorts

MIB = 1024 * 1024
GIB = 1024 * MIB
ENOUGH_DISK = GIB
LEAST_DISK = 100 * MIB
ENOUGH_DESCRIPTORS = 4096


class Health(StrEnum):
    """How something is; with WARNING, a server works, but not as it should."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing is, and what to do about it."""

    subject: str
    health: Health
    message: str
    remedy: str = ""


async def examine() -> list[Finding]:
    """Look at everything; without settings that can be read, at those only."""
    findings = [
        Finding("settings", Health.WARNING, f"{p.variable} {p.description}", "unset or correct it")
        for p in unknown_variables()
    ]
    try:
        settings = load_settings()
    except SettingsError as error:
        return [*findings, *_wrong_settings("settings", error)]
    findings.append(Finding("settings", Health.OK, "all are valid"))
    findings += [finding async for finding in _engines(settings)]
    for check in (_database, _disk, _ports, _tls, _descriptors):
        findings += check(settings)
    return findings


def _wrong_settings(subject: str, error: SettingsError) -> Iterator[Finding]:
    for problem in error.problems:
        remedy = "correct it; `skybridge-server config` shows all"
        yield Finding(subject, Health.BROKEN, f"{problem.variable}: {problem.description}", remedy)


async def _engines(settings: Settings) -> AsyncIterator[Finding]:
    try:
        found = runtimes(settings)
    except SettingsError as error:
        for finding in _wrong_settings("engine", error):
            yield finding
        return
    for name, runtime in found.items():
        for finding in await _engine(f"engine {name}", runtime):
            yield finding


async def _engine(subject: str, runtime: Runtime) -> list[Finding]:
    try:
        info = await runtime.check()
        message = f"{info.engine}, API {info.api_version}, {info.platform}"
        found = [Finding(subject, Health.OK, message), _limits(subject, info)]
        if isinstance(runtime, SupportsPorts):
            found.append(await _ports_of_containers(f"{subject}, ports", runtime))
    except RuntimeUnavailableError as error:
        return [Finding(subject, Health.BROKEN, error.message, engine_remedy())]
    finally:
        await runtime.close()
    return found


async def _ports_of_containers(subject: str, runtime: SupportsPorts) -> Finding:
    try:
        return Finding(subject, Health.OK, f"are reached {await runtime.way_to_ports()}")
    except FailedPreconditionError as error:
        remedy = "set FAAS_PORT_ACCESS=auto; until then only functions with contract STDIO work"
        return Finding(subject, Health.BROKEN, f"cannot be reached: {error.message}", remedy)


def engine_remedy() -> str:
    """Say what to do about an engine that does not answer, by what its socket looks like."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return f"start the engine at {host}, or set DOCKER_HOST to another"
    path = Path(host.removeprefix("unix://"))
    if not path.exists():
        return (
            f"there is no {path}: install and start Docker (sudo systemctl start docker), "
            "or set DOCKER_HOST"
        )
    if not os.access(path, os.R_OK | os.W_OK):
        return f"you may not use {path}: sudo usermod -aG {path.group()} $USER, then log in again"
    return "start it: sudo systemctl start docker"


def _limits(subject: str, info: EngineInfo) -> Finding:
    subject = f"{subject}, limits"
    if not info.unsupported_limits:
        return Finding(subject, Health.OK, f"all are enforced, by cgroup v{info.cgroup_version}")
    return Finding(
        subject,
        Health.WARNING,
        f"it does not enforce {', '.join(info.unsupported_limits)}: functions can take more",
        "enable these controllers of the kernel's cgroups, on some machines by the kernel's "
        "parameters cgroup_enable=memory swapaccount=1",
    )


def _database(settings: Settings) -> Iterator[Finding]:
    path = settings.database
    if not path.exists():
        yield _new_database(path)
        return
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK):
        remedy = f"let this user write to {path} and its folder, or set FAAS_DATABASE"
        yield Finding("database", Health.BROKEN, f"{path} cannot be written", remedy)
        return
    try:
        version, newest = schema_version(path), newest_version()
    except SkybridgeError as error:
        remedy = "restore a backup, or set FAAS_DATABASE to another file"
        yield Finding("database", Health.BROKEN, error.message, remedy)
        return
    message = f"{path} has version {version}, this server has {newest}"
    if version > newest:
        remedy = "install the newer server again, or set FAAS_DATABASE to another file"
        yield Finding("database", Health.BROKEN, message, remedy)
    else:
        yield Finding("database", Health.OK, message)


def _new_database(path: Path) -> Finding:
    folder = _existing(path.parent)
    if os.access(folder, os.W_OK | os.X_OK):
        return Finding("database", Health.OK, f"{path} will be made")
    remedy = f"let this user write to {folder}, or set FAAS_DATABASE"
    return Finding("database", Health.BROKEN, f"{path} cannot be made", remedy)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = _existing(settings.database.absolute().parent)
    free = shutil.disk_usage(folder).free
    message = f"{free // MIB:,} MiB are free in {folder}"
    remedy = (
        f"make room, or set FAAS_DATABASE to another disk; {ENOUGH_DISK // MIB:,} MiB are enough"
    )
    if free >= ENOUGH_DISK:
        yield Finding("disk", Health.OK, message)
    else:
        yield Finding(
            "disk", Health.WARNING if free >= LEAST_DISK else Health.BROKEN, message, remedy
        )


def _ports(settings: Settings) -> Iterator[Finding]:
    for setting in ("listen", "metrics_listen", "admin_listen"):
        address: Address | None = getattr(settings, setting)
        if address is not None:
            yield _port(f"address {address}", variable_of(setting), address)


def _port(subject: str, variable: str, address: Address) -> Finding:
    try:
        check_free(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = f"well if your server runs; else set {variable} to another address"
            return Finding(subject, Health.WARNING, "is in use", remedy)
        return Finding(
            subject,
            Health.BROKEN,
            error.strerror or str(error),
            f"set {variable} to another address",
        )
    return Finding(subject, Health.OK, "is free")


def _tls(settings: Settings) -> Iterator[Finding]:
    try:
        context = server_context(settings)
    except SettingsError as error:
        yield from _wrong_settings("TLS", error)
        return
    if context is not None:
        yield Finding("TLS", Health.OK, "certificate and key fit")
    elif settings.listen.local:
        yield Finding("TLS", Health.OK, "is off, and only this machine can reach the server")
    else:
        remedy = "set FAAS_TLS_CERT and FAAS_TLS_KEY"
        yield Finding(
            "TLS", Health.WARNING, f"is off, and others can reach {settings.listen}", remedy
        )


def _descriptors(_: Settings) -> Iterator[Finding]:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    message = f"this process may open {soft:,} files"
    if soft >= ENOUGH_DESCRIPTORS or soft == resource.RLIM_INFINITY:
        yield Finding("open files", Health.OK, message)
    else:
        remedy = f"ulimit -n {ENOUGH_DESCRIPTORS}, or LimitNOFILE={ENOUGH_DESCRIPTORS} in the unit"
        yield Finding("open files", Health.WARNING, message, remedy)
