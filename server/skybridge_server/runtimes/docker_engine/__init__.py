"""The runtime of the Docker Engine, through docker-py."""

from __future__ import annotations

from skybridge_server.runtimes.docker_engine.runtime import DockerRuntime

__all__ = ["DockerRuntime"]
