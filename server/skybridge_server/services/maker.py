"""Creates the containers of revisions."""

from __future__ import annotations

from collections.abc import Mapping

from skybridge_server.models.functions import Revision
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.services.engines import Engines
from skybridge_server.services.secrets import SecretService


class Maker:
    """Creates containers at the engines of their functions."""

    def __init__(self, engines: Engines, secrets: SecretService) -> None:
        self._engines = engines
        self._secrets = secrets

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
        files = await self._secrets.files(revision) if spec.secrets else {}
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
