"""From a ContainerSpec to what docker-py creates: the one place that decides how safe it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from docker.types import LogConfig

from skybridge_server.models.functions import Network
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.runtimes.docker_engine import files
from skybridge_server.runtimes.docker_engine.networks import EGRESS_NETWORK

NANO_CPUS_PER_MILLI = 1_000_000
MIB = 1024 * 1024


def container_config(spec: ContainerSpec) -> dict[str, Any]:
    """Return the arguments of create_container but its host_config."""
    return {
        "image": spec.image_id,
        "name": spec.name,
        # None leaves the image's own; an ENTRYPOINT that is replaced takes its CMD along.
        "entrypoint": list(spec.command) or None,
        "command": list(spec.args) or None,
        "environment": dict(spec.env),
        "labels": dict(spec.labels),
        "working_dir": spec.working_dir or None,
        "user": spec.isolation.user,
        "stdin_open": True,  # and closed for good after the first attachment: StdinOnce
        "tty": False,
        "stop_timeout": math.ceil(spec.stop_grace.total_seconds()),
    }


def host_options(info: Mapping[str, Any], spec: ContainerSpec, join: str = "") -> dict[str, Any]:
    """Return the arguments of create_host_config; `info` is what the engine says of itself.

    `join` is a container whose network is to be shared, instead of one of its own.
    """
    resources = spec.resources
    return {
        # No init process: it would report a missing entry point as exit code 127 of the function.
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],  # seccomp: the engine's default profile
        "read_only": not spec.isolation.writable_root,
        "mounts": files.mounts(spec) or None,
        "tmpfs": {"/tmp": f"size={resources.tmp_bytes},mode=1777,nosuid,nodev,exec"},  # noqa: S108
        "mem_limit": resources.memory_bytes,
        "memswap_limit": resources.memory_bytes,  # of both together, so there is no swap
        "nano_cpus": min(resources.cpu_millis * NANO_CPUS_PER_MILLI, _host_nano_cpus(info)),
        "pids_limit": resources.pids,
        "network_mode": f"container:{join}" if join else network_mode(spec.network),
        "runtime": spec.isolation.oci_runtime or None,
        "log_config": _log_config(info, resources.output_bytes),
    }


def network_mode(network: Network) -> str:
    """Return what engines call a network of functions."""
    return EGRESS_NETWORK if network is Network.EGRESS else "none"


def _host_nano_cpus(info: Mapping[str, Any]) -> int:
    """Return all there is; the engine refuses to promise more."""
    return int(info["NCPU"]) * 1000 * NANO_CPUS_PER_MILLI


def _log_config(info: Mapping[str, Any], output_bytes: int) -> LogConfig:
    """Keep the output at the engine, for a server that was away while it was written.

    `local` passes five to seven times as many bytes a second to an attachment as `json-file`.
    """
    options = {"max-size": str(max(output_bytes, MIB)), "max-file": "2"}
    if "local" in (info.get("Plugins") or {}).get("Log", ()):
        return LogConfig(type="local", config={**options, "compress": "false"})
    return LogConfig(type="json-file", config=options)
