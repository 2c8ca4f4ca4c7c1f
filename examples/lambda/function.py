"""An AWS Lambda handler, unchanged: the event is the input, what it returns is the output."""

from __future__ import annotations

from typing import Any


def handle(event: Any, context: Any) -> dict[str, Any]:
    if not isinstance(event, dict) or "name" not in event:
        # What a handler raises is a failure of the execution; the instance lives on.
        raise ValueError("the event has no name")
    print(f"request {context.aws_request_id}")
    return {"greeting": f"Hello, {event['name']}!", "function": context.function_name}
