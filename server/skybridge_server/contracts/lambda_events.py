"""What a Lambda function is told: its environment, and the event of an execution."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from skybridge_server.contracts.base import Call
from skybridge_server.contracts.heads import render_fields
from skybridge_server.errors import FieldViolation, InvalidArgumentError
from skybridge_server.models.functions import MIB, FunctionSpec
from skybridge_server.models.names import FunctionName

RUNTIME_PORT = 9001
RUNTIME_API = f"127.0.0.1:{RUNTIME_PORT}"
"""Where an instance finds the Runtime API, in its own network namespace."""
DEFAULT_REGION = "us-east-1"
JSON = "application/json"

_ACCOUNT = "000000000000"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{8})([0-9a-f]{24})-([0-9a-f]{16})-([0-9a-f]{2})")
_CLIENT_CONTEXT = "x-amz-client-context"
_TENANT = "x-amz-tenant-id"


def environment(
    spec: FunctionSpec, function: FunctionName, revision: int, *, max_concurrency: int = 1
) -> dict[str, str]:
    """Return the environment of an instance, the function's own variables included.

    What an image sets for itself, such as LAMBDA_TASK_ROOT, is left to it.
    """
    ours = {
        "AWS_LAMBDA_RUNTIME_API": RUNTIME_API,
        "AWS_LAMBDA_FUNCTION_NAME": function.function,
        "AWS_LAMBDA_FUNCTION_VERSION": str(revision),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.resources.memory_bytes // MIB),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.function}",
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{function.namespace}/{revision}",
        "SKYBRIDGE_FUNCTION": str(function),
        "SKYBRIDGE_REVISION": str(revision),
    }
    if max_concurrency > 1:
        ours["AWS_LAMBDA_MAX_CONCURRENCY"] = str(max_concurrency)
    region = {"AWS_REGION": DEFAULT_REGION, "AWS_DEFAULT_REGION": DEFAULT_REGION}
    return {**region, **spec.env, **ours}


def arn(function: FunctionName, revision: int, region: str = DEFAULT_REGION) -> str:
    """Return a name for a revision in the form that functions expect of AWS."""
    return f"arn:aws:lambda:{region}:{_ACCOUNT}:function:{function.function}:{revision}"


def render_event(call: Call, function_arn: str, invocation_id: str) -> bytes:
    """Return the response to /next that hands out a call.

    InvalidArgumentError: a header of the caller is not what Lambda takes.
    """
    content_type = call.content_type or JSON
    headers = {name.lower(): value for name, value in call.headers.items()}
    # As at AWS, who says nothing sends an empty object: no JSON at all is an error to a runtime.
    event = call.input or (b"{}" if content_type == JSON else b"")
    fields = {
        # Without a content type the runtime of Python dies of it.
        "Content-Type": content_type,
        "Content-Length": str(len(event)),
        "Lambda-Runtime-Aws-Request-Id": call.execution,
        "Lambda-Runtime-Invocation-Id": invocation_id,
        "Lambda-Runtime-Deadline-Ms": str(int(call.deadline.timestamp() * 1000)),
        "Lambda-Runtime-Invoked-Function-Arn": function_arn,
        "X-Skybridge-Execution-Id": call.execution,
    }
    fields |= _trace(call.traceparent or headers.get("traceparent", ""))
    context = _client_context(headers, call.traceparent)
    if context:
        fields["Lambda-Runtime-Client-Context"] = json.dumps(context)
    if _TENANT in headers:
        fields["Lambda-Runtime-Aws-Tenant-Id"] = headers[_TENANT]
    return b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (render_fields(fields), event)


def _trace(traceparent: str) -> dict[str, str]:
    """Return the W3C trace as X-Ray writes one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return {}
    time, rest, parent, flags = match.groups()
    sampled = int(flags, 16) & 1
    trace = f"Root=1-{time}-{rest};Parent={parent};Sampled={sampled}"
    return {"Lambda-Runtime-Trace-Id": trace}


def _client_context(headers: Mapping[str, str], traceparent: str) -> dict[str, Any]:
    context = _parse_client_context(headers[_CLIENT_CONTEXT]) if _CLIENT_CONTEXT in headers else {}
    w3c = {
        name: headers[name] for name in ("traceparent", "tracestate", "baggage") if name in headers
    }
    if traceparent:
        w3c["traceparent"] = traceparent
    return context | ({"w3c": w3c} if w3c else {})


def _parse_client_context(value: str) -> dict[str, Any]:
    try:
        context = json.loads(base64.b64decode(value, validate=True))
    except (ValueError, RecursionError):
        context = None
    if not isinstance(context, dict):
        raise InvalidArgumentError(
            FieldViolation("headers", f"'{_CLIENT_CONTEXT}' must be a JSON object in base64")
        )
    return context
