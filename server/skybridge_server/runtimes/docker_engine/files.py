"""Files for containers, by way of a volume: neither `docker inspect` nor an image shows them.

The volume is an anonymous one, removed with its container; where somebody else removed that, its
labels tell that it is ours. It lies on the engine's disk meanwhile: a tmpfs would lose what is
written before the start of the container.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from contextlib import suppress

from docker import APIClient
from docker.errors import APIError
from docker.types import Mount

from skybridge_server.runtimes.base import ContainerSpec

FOLDER = "/run/secrets"


def mounts(spec: ContainerSpec) -> list[Mount]:
    """Return what a container has to have for its files."""
    if not spec.files:
        return []
    return [Mount(FOLDER, None, type="volume", no_copy=True, labels=dict(spec.labels))]


def archive(spec: ContainerSpec) -> bytes:
    """Return the files as a tar. The folder stays root's: no other user can write to it."""
    user, _, group = spec.isolation.user.partition(":")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in spec.files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o400
            entry.uid, entry.gid = int(user), int(group or 0)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def forget(client: APIClient, labels: Mapping[str, str]) -> None:
    """Remove the volumes with these labels that no container has any more."""
    filters = {"label": [f"{key}={value}" for key, value in labels.items()], "dangling": True}
    for volume in client.volumes(filters)["Volumes"] or ():
        with suppress(APIError):  # somebody was faster
            client.remove_volume(volume["Name"])
