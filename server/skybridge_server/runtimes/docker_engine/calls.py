"""What is asked of the engine about containers. All of it blocks, and raises docker-py's errors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from ssl import SSLContext
from typing import Any

import requests
from docker import APIClient
from docker.errors import APIError, NotFound
from docker.utils import version_lt

from skybridge_server.errors import ContainerGoneError
from skybridge_server.models.functions import Network
from skybridge_server.runtimes.base import (
    ContainerRecord,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    Exit,
)
from skybridge_server.runtimes.docker_engine import files
from skybridge_server.runtimes.docker_engine.client import Engine
from skybridge_server.runtimes.docker_engine.errors import is_awake, is_conflict, is_missing
from skybridge_server.runtimes.docker_engine.hardening import container_config, host_options
from skybridge_server.runtimes.docker_engine.networks import ensure_egress
from skybridge_server.runtimes.docker_engine.streams import open_stream
from skybridge_server.runtimes.docker_engine.tls import client_context

_RUNNING = {"running", "paused", "restarting"}
_GOING = {"removing", "dead"}


def create(engine: Engine, spec: ContainerSpec, join: str = "") -> str:
    """Create a container, in the network of the one to join if any, and return its id."""
    if spec.network is Network.EGRESS and not join:
        ensure_egress(engine.short)
    host_config = engine.short.create_host_config(**host_options(engine.info, spec, join))
    config = container_config(spec)
    container_id = str(engine.short.create_container(**config, host_config=host_config)["Id"])
    if spec.files:
        try:
            files.write(engine.short, container_id, spec)
        except BaseException:
            remove(engine.short, container_id)
            raise
    return container_id


def prepare_encryption(client: APIClient, container_id: str) -> tuple[APIClient, SSLContext]:
    """Look for the container, and return what it takes to speak TLS with its engine."""
    client.inspect_container(container_id)
    return client, client_context(client)


def inspect(engine: Engine, container: str) -> ContainerState:
    """Return what the engine knows of a container."""
    found = engine.short.inspect_container(container)
    state: dict[str, Any] = found["State"]
    if state["Status"] in _GOING:
        raise ContainerGoneError(container)
    if state["Status"] == "created":
        return ContainerState(found["Id"], ContainerStatus.CREATED)
    start_time = datetime.fromisoformat(state["StartedAt"])
    witnessed = None if engine.began is None else start_time.timestamp() >= engine.began
    if state["Status"] in _RUNNING:
        status, ended = ContainerStatus.RUNNING, None
    else:
        status = ContainerStatus.ENDED
        ended = Exit(code=state["ExitCode"], oom_killed=state["OOMKilled"])
    return ContainerState(found["Id"], status, start_time, ended, witnessed)


def log_room(client: APIClient, container_id: str) -> int:
    """Return how many bytes the log of a container can have before some of it is thrown away."""
    config = client.inspect_container(container_id)["HostConfig"]["LogConfig"]["Config"]
    return int(config.get("max-size", 0))


def request_wait(client: APIClient, container_id: str) -> requests.Response:
    """Ask for the end of a container; the engine sends the headers at once, the body then.

    The engine is told to close the connection afterwards, so that its socket becomes readable
    even if the body came together with the headers.
    """
    condition, close = {"condition": "not-running"}, {"Connection": "close"}
    return open_stream(client, f"/containers/{container_id}/wait", condition, close)


def read_exit(client: APIClient, container_id: str, waiting: requests.Response) -> Exit:
    """Read the answer to a wait, then ask how the container ended.

    Also after a good end: an engine that stops ends containers with a signal, some of which exit
    with 0 then, and others say 0 where they could not wait.
    """
    waiting.json()  # raises where the engine went away; the rest stands in the state
    state: dict[str, Any] = client.inspect_container(container_id)["State"]
    if state["Status"] in _GOING:
        raise ContainerGoneError(container_id)
    return Exit(code=state["ExitCode"], oom_killed=state["OOMKilled"])


def signal(client: APIClient, container_id: str, name: str) -> None:
    """Send a signal; a paused container is woken, or it could not act on it."""
    try:
        client.kill(container_id, name)
        if client.inspect_container(container_id)["State"]["Paused"]:
            client.unpause(container_id)
    except APIError as error:
        if not (is_conflict(error) or is_awake(error)):  # it has ended, or woke by itself
            raise


def pause(client: APIClient, container_id: str) -> None:
    """Freeze a container, unless it is frozen, or has ended."""
    try:
        client.pause(container_id)
    except APIError as error:
        if not is_conflict(error):
            raise


def unpause(client: APIClient, container_id: str) -> None:
    """Let a container go on, unless it does."""
    try:
        client.unpause(container_id)
    except APIError as error:
        if not (is_conflict(error) or is_awake(error)):
            raise


def remove(client: APIClient, container_id: str) -> None:
    """Remove a container with its volumes, and return once it is gone."""
    try:
        client.remove_container(container_id, force=True, v=True)
    except APIError as error:
        if is_conflict(error):  # somebody else is removing it
            with suppress(NotFound):
                client.wait(container_id, condition="removed")
        elif not is_missing(error):
            raise


def process(client: APIClient, container_id: str) -> int:
    """Return the number of a container's first process, as the engine counts; 0: none runs."""
    state: dict[str, Any] = client.inspect_container(container_id)["State"]
    return int(state["Pid"])


def name(client: APIClient, container_id: str) -> str:
    """Return the name of a container that runs. ContainerGoneError."""
    found: dict[str, Any] = client.inspect_container(container_id)
    if found["State"]["Status"] != "running":
        raise ContainerGoneError(container_id)
    return str(found["Name"]).removeprefix("/")


def joined(client: APIClient, container_id: str) -> str:
    """Return the id of the container whose network a container has joined. ContainerGoneError."""
    kind, _, other = client.inspect_container(container_id)["HostConfig"]["NetworkMode"].partition(
        ":"
    )
    if kind != "container":
        raise ContainerGoneError(container_id)
    return str(other)


def find(client: APIClient, labels: Mapping[str, str]) -> tuple[ContainerRecord, ...]:
    """Return the containers that have all these labels.

    Docker may list one that it has removed, if its process ended meanwhile: without a name, and
    nothing finds it any more.
    """
    filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
    listed = client.containers(all=True, filters=filters)
    return tuple(_to_record(item) for item in listed if item["Names"])


def _to_record(item: Mapping[str, Any]) -> ContainerRecord:
    return ContainerRecord(
        id=item["Id"],
        name=item["Names"][0].removeprefix("/"),
        labels=item["Labels"],
        running=item["State"] in _RUNNING,
    )


def processes(client: APIClient, container_id: str) -> int | None:
    """Return how many processes and threads a container has."""
    at_once = None if version_lt(client.api_version, "1.41") else True
    stats = client.stats(container_id, stream=False, one_shot=at_once)
    count: int | None = (stats.get("pids_stats") or {}).get("current")
    return count
