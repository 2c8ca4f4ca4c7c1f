"""STDIO: a process per execution. Input on stdin, output on stdout, log on stderr.

The exit code is the verdict. What the function can know of its execution is in its environment.
"""

from __future__ import annotations

from datetime import datetime

from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import FunctionSpec, InputMode

MAX_ENV_INPUT_BYTES = 96 * 1024
"""Linux takes at most 128 KiB in one variable (MAX_ARG_STRLEN); this leaves room."""


def environment(
    spec: FunctionSpec, execution: Execution, input_: bytes, deadline: datetime
) -> dict[str, str]:
    """Return the environment of an execution's process, the function's own variables included."""
    ours = {
        "SKYBRIDGE_EXECUTION_ID": execution.name.execution,
        "SKYBRIDGE_FUNCTION": str(execution.function),
        "SKYBRIDGE_REVISION": str(execution.revision),
        "SKYBRIDGE_ATTEMPT": str(execution.attempt),
        "SKYBRIDGE_DEADLINE": deadline.isoformat(timespec="milliseconds"),
    }
    if execution.traceparent:
        ours["TRACEPARENT"] = execution.traceparent
    if spec.contract.input is InputMode.ENV:
        ours["SKYBRIDGE_INPUT"] = input_.decode()
    return {**spec.env, **ours}
