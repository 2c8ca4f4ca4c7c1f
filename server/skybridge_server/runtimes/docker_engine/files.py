"""Files for containers, by way of a volume: neither `docker inspect` nor an image shows them.

The volume is an anonymous one, removed with its container; where somebody else removed that, its
labels tell that it is ours. It lies on the engine's disk meanwhile: a tmpfs would lose what is
written before the start of the container.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from docker import APIClient
from docker.errors import APIError
from docker.types import Mount

from skybridge_server.errors import ContainerStartError
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.runtimes.docker_engine.errors import is_conflict, is_missing

FOLDER = "/run/secrets"


def mounts(spec: ContainerSpec) -> list[Mount]:
    """Return what a container has to have for its files."""
    if not spec.files:
        return []
    return [Mount(FOLDER, None, type="volume", no_copy=True, labels=dict(spec.labels))]


def write(client: APIClient, container_id: str, spec: ContainerSpec) -> None:
    """Write the files of a container that was created. ContainerStartError."""
    try:
        client.put_archive(container_id, FOLDER, _archive(spec))
    except APIError as error:
        if is_missing(error):
            raise
        raise ContainerStartError(
            f"the files of spec.secrets cannot be written: in the image, {FOLDER} and what leads"
            " there must be folders, and no links, or not exist"
        ) from error


def _archive(spec: ContainerSpec) -> bytes:
    """Return the files as a tar, owned by root: an owner could change them, and fill the disk."""
    _, _, group = spec.isolation.user.partition(":")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in spec.files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.gid = len(content), int(group or 0)
            # Some programs refuse keys that everybody can read.
            entry.mode = 0o440 if entry.gid else 0o444
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def forget(client: APIClient, labels: Mapping[str, str]) -> None:
    """Remove the volumes with these labels that no container has any more."""
    filters = {"label": [f"{key}={value}" for key, value in labels.items()], "dangling": True}
    failed: APIError | None = None
    for volume in client.volumes(filters)["Volumes"] or ():
        try:
            client.remove_volume(volume["Name"])
        except APIError as error:
            if not (is_missing(error) or is_conflict(error)):  # else somebody was faster
                failed = error
    if failed is not None:
        raise failed
