"""How a Lambda function says that it failed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from skybridge_server.models.executions import Failure, FailureReason

MAX_MESSAGE_CHARACTERS = 1000

_TYPE = "lambda-runtime-function-error-type"
_BODY = "lambda-runtime-function-error-body"


def failure_of(headers: Mapping[str, str], body: bytes) -> Failure:
    """Return the failure that a request to /error reports."""
    return Failure(FailureReason.FUNCTION_ERROR, describe(headers, body))


def failure_in(trailers: Mapping[str, str]) -> Failure | None:
    """Return the failure that ends a streamed response, if its trailers report one."""
    if _TYPE not in trailers:
        return None
    try:
        body = base64.b64decode(trailers.get(_BODY, ""), validate=True)
    except ValueError:
        body = b""
    return failure_of(trailers, body)


def describe(headers: Mapping[str, str], body: bytes) -> str:
    """Return the type and the message of an error in one line, as far as they are given."""
    error = _parse(body)
    kind = _text(error.get("errorType")) or headers.get(_TYPE, "")
    message = _text(error.get("errorMessage"))
    said = ": ".join(part for part in (kind, message) if part)
    return said[:MAX_MESSAGE_CHARACTERS] or "the function failed and did not say why"


def _parse(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
