"""What an engine says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skybridge_server.runtimes.base import EngineInfo

# What `docker info` calls the ability to enforce each limit of a function.
_LIMITS = {
    "resources.memory_bytes": ("MemoryLimit", "SwapLimit"),
    "resources.cpu_millis": ("CpuCfsQuota",),
    "resources.pids": ("PidsLimit",),
}


def to_engine_info(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineInfo:
    """Convert the engine's answers to `version` and `info`."""
    return EngineInfo(
        engine=f"{_engine_name(version)} {version.get('Version', '')}".strip(),
        api_version=version.get("ApiVersion", ""),
        platform=f"{version.get('Os', '')}/{version.get('Arch', '')}",
        cgroup_version=int(info.get("CgroupVersion") or 0),
        oci_runtimes=tuple(sorted(info.get("Runtimes") or ())),
        unsupported_limits=tuple(
            field
            for field, abilities in _LIMITS.items()
            if not all(info.get(ability, True) for ability in abilities)
        ),
    )


def _engine_name(version: Mapping[str, Any]) -> str:
    """Return `podman` where podman plays the part of Docker."""
    components = [part.get("Name", "") for part in version.get("Components") or ()]
    return "podman" if any("podman" in name.lower() for name in components) else "docker"
