"""`request_id`: what makes a mutation idempotent."""

from __future__ import annotations

import hashlib
import re

from google.protobuf.message import Message

from skybridge_server.services.requests import RequestKey
from skybridge_server.services.violations import Violations

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_NOT_ASKED = ("request_id", "registry_credentials")
"""Fields that do not make it another request: a repeat may come with fresh credentials, and no
trace of a password may be stored."""


def request_key(
    method: str,
    request: Message,
    request_id: str,
    wrong: Violations,
    *,
    field: str = "request_id",
) -> RequestKey | None:
    """Return the key of a request; None without a request id. `field`: where it stands."""
    if not request_id:
        return None
    if not _UUID.fullmatch(request_id):
        wrong.add(field, "must be a UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057")
    return RequestKey(method, request_id.lower(), _fingerprint(request))


def _fingerprint(request: Message) -> str:
    asked = type(request)()
    asked.CopyFrom(request)
    for name in _NOT_ASKED:
        if name in request.DESCRIPTOR.fields_by_name:
            asked.ClearField(name)
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
