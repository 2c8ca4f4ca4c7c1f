"""The bridge of functions that may reach the outside, and never each other."""

from __future__ import annotations

from docker import APIClient
from docker.errors import APIError

from skybridge_server.runtimes.docker_engine.errors import is_conflict

EGRESS_NETWORK = "skybridge-egress"


def ensure_egress(client: APIClient) -> None:
    """Make the bridge, unless it is there."""
    if client.networks(names=[EGRESS_NETWORK]):
        return
    try:
        client.create_network(
            EGRESS_NETWORK,
            driver="bridge",
            options={"com.docker.network.bridge.enable_icc": "false"},
            check_duplicate=True,
        )
    except APIError as error:
        if not is_conflict(error):  # somebody else was faster
            raise
