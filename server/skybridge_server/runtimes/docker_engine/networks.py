"""The bridge of functions that may reach the outside, and never each other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from docker import APIClient
from docker.errors import APIError

EGRESS_NETWORK = "skybridge-egress"
_making = threading.Lock()


def ensure_egress(client: APIClient) -> None:
    """Make the bridge, unless it is there.

    Engines let several networks have one name, and then start nothing on any of them. So only one
    thread makes it, and where another server did too, both keep the same one.
    """
    with _making:
        if not _find(client):
            client.create_network(
                EGRESS_NETWORK,
                driver="bridge",
                options={"com.docker.network.bridge.enable_icc": "false"},
            )
        for other in _find(client)[1:]:
            with suppress(APIError):  # the other server was faster
                client.remove_network(other["Id"])


def _find(client: APIClient) -> list[Mapping[str, Any]]:
    """Return the networks of that name, the oldest first."""
    found = client.networks(names=[EGRESS_NETWORK])  # and those whose names contain it
    mine = [network for network in found if network["Name"] == EGRESS_NETWORK]
    return sorted(mine, key=lambda network: (network["Created"], network["Id"]))
