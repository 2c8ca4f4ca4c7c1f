"""The image of sandboxes: made by us from nothing, and brought to an engine when it is needed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

from docker import APIClient
from docker.errors import ImageNotFound

from skybridge_server.errors import ContainerStartError
from skybridge_server.runtimes.docker_engine.client import Engine
from skybridge_server.runtimes.docker_engine.program import ARCHITECTURES, program_for

REPOSITORY = "skybridge/sandbox"
PATH = "sandbox"
CHANGES = [f"CMD {json.dumps([f'/{PATH}'])}"]


def ensure_image(engine: Engine) -> str:
    """Return the id of the image, importing it where the engine lacks it.

    ContainerStartError for an engine whose architecture there is no program for.
    """
    architecture = engine.version.get("Arch", "")
    if architecture not in ARCHITECTURES:
        raise ContainerStartError(f"there is no sandbox for the architecture '{architecture}'")
    layer = layer_of(program_for(architecture))
    tag = hashlib.sha256(layer).hexdigest()[:12]
    return _find(engine.short, tag) or _import(engine.short, layer, tag)


def _import(client: APIClient, layer: bytes, tag: str) -> str:
    answer: str = client.import_image_from_data(layer, changes=CHANGES)
    image_id = str(json.loads(answer.splitlines()[0])["status"])
    client.tag(image_id, REPOSITORY, tag)  # podman does not take it with the import
    return image_id


def _find(client: APIClient, tag: str) -> str:
    try:
        image: dict[str, Any] = client.inspect_image(f"{REPOSITORY}:{tag}")  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return ""
    return str(image["Id"])


def layer_of(program: bytes) -> bytes:
    """Return the only layer, the same bytes each time."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo(PATH)
        entry.mode, entry.size = 0o755, len(program)
        archive.addfile(entry, io.BytesIO(program))
    return layer.getvalue()
