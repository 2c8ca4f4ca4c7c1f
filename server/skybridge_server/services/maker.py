"""Creates the containers of revisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from skybridge_server.models.functions import Revision
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.services.engines import Engines


class Files(Protocol):
    """Knows what containers find in files."""

    async def files(self, revision: Revision) -> Mapping[str, bytes]:
        """Return the files of a container of a revision, by name. ContainerStartError."""
        ...


class Maker:
    """Creates containers at the engines of their functions."""

    def __init__(self, engines: Engines, files: Files) -> None:
        self._engines = engines
        self._files = files

    async def create(
        self,
        revision: Revision,
        name: str,
        env: Mapping[str, str],
        labels: Mapping[str, str],
        *,
        ahead: bool = False,
        reachable: bool = False,
    ) -> str:
        """Create a container of a revision, and return its id; errors as in Containers.create.

        `ahead` and `reachable` as in ContainerSpec.
        """
        spec = revision.spec
        files = await self._files.files(revision) if spec.secrets else {}
        return await self._engines.get(spec.runtime).containers.create(
            ContainerSpec(
                name=name,
                image_id=revision.image_id,
                command=spec.command,
                args=spec.args,
                env=env,
                labels=labels,
                working_dir=spec.working_dir,
                resources=spec.resources,
                network=spec.network,
                isolation=spec.isolation,
                stop_grace=spec.timeouts.shutdown_grace,
                files=files,
                ahead=ahead,
                reachable=reachable,
            )
        )
