"""The wire without a client on top, for what clients do not show."""

from __future__ import annotations

from grpc import aio


def channel(address: str) -> aio.Channel:
    """Open a channel of its own; close it with `async with`."""
    # Without this all channels of a process to one address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return aio.insecure_channel(address, options=options)
