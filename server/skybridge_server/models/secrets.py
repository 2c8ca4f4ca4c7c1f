"""Secrets, which functions find in files."""

from __future__ import annotations

from datetime import datetime

from skybridge_server.models.names import SecretName
from skybridge_server.models.values import value

MAX_SECRET_BYTES = 64 * 1024


@value(frozen=True, slots=True)
class Secret:
    """What is to be known of a secret; its value is no part of it."""

    name: SecretName
    value_bytes: int
    create_time: datetime
    update_time: datetime
    etag: str
