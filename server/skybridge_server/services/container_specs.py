"""The containers of revisions, as runtimes are asked to create them."""

from __future__ import annotations

from collections.abc import Mapping

from skybridge_server.models.functions import Revision
from skybridge_server.runtimes.base import ContainerSpec


def spec_of(
    revision: Revision,
    name: str,
    env: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    ahead: bool = False,
    reachable: bool = False,
) -> ContainerSpec:
    """Return a container of a revision; `ahead` and `reachable` as in ContainerSpec."""
    spec = revision.spec
    return ContainerSpec(
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
        ahead=ahead,
        reachable=reachable,
    )
