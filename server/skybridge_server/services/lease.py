"""How long a server may run an execution before others may think that it is gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from skybridge_server.models.executions import Lease
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.time_limit import time_limit

SETTLING = timedelta(minutes=15)
"""What a lease lasts beyond all timeouts: for an end that the store refuses at first."""


def taken(active: ActiveExecution, owner: str) -> Lease:
    """Return the lease that lets its owner start an execution now, and see it to its end."""
    timeouts = active.revision.spec.timeouts
    lasts = timeouts.start + time_limit(active).length + timeouts.shutdown_grace + SETTLING
    epoch = active.journal.execution.lease.epoch + 1
    return Lease(epoch, owner, datetime.now(UTC) + lasts)
