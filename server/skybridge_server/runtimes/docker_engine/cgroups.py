"""What the kernel counts for a container, read from its control group while that still exists."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from skybridge_server.models.executions import Usage

CGROUPS = Path("/sys/fs/cgroup")


def read_usage(info: Mapping[str, Any], container_id: str, root: Path = CGROUPS) -> Usage:
    """Return what a container of an engine on this host has used; None for what is not shown.

    Takes about 50 microseconds: the kernel answers from memory.
    """
    group = _group(info, container_id)
    if str(info.get("CgroupVersion")) == "2":
        return _usage_v2(root / group)
    return _usage_v1(root / "cpuacct" / group, root / "memory" / group)


def read_processes(info: Mapping[str, Any], container_id: str, root: Path = CGROUPS) -> int | None:
    """Return how many processes and threads a container has; None if that is not shown."""
    controller = "" if str(info.get("CgroupVersion")) == "2" else "pids"
    return _number(root / controller / _group(info, container_id) / "pids.current")


def _group(info: Mapping[str, Any], container_id: str) -> str:
    if info.get("CgroupDriver") == "systemd":
        return f"system.slice/docker-{container_id}.scope"
    return f"docker/{container_id}"


def _usage_v1(cpu: Path, memory: Path) -> Usage:
    return Usage(
        cpu=_duration(_number(cpu / "cpuacct.usage"), nanoseconds=1),
        peak_memory_bytes=_number(memory / "memory.max_usage_in_bytes"),
        oom_killed=_entry(memory / "memory.oom_control", "oom_kill") not in {None, 0},
    )


def _usage_v2(group: Path) -> Usage:
    return Usage(
        cpu=_duration(_entry(group / "cpu.stat", "usage_usec"), nanoseconds=1000),
        peak_memory_bytes=_number(group / "memory.peak"),
        oom_killed=_entry(group / "memory.events", "oom_kill") not in {None, 0},
    )


def _duration(count: int | None, nanoseconds: int) -> timedelta | None:
    return None if count is None else timedelta(microseconds=count * nanoseconds / 1000)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _entry(path: Path, key: str) -> int | None:
    """Return a value of a file of `key value` lines."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(4096).decode()
    except OSError:
        return ""
