"""STDIO: a process per execution. Input on stdin, output on stdout, log on stderr.

The exit code is the verdict. What the function can know of its execution is in its environment.
"""

from __future__ import annotations

from datetime import datetime

from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import FunctionSpec, InputMode
from skybridge_server.models.names import RevisionName

MAX_ENV_INPUT_BYTES = 96 * 1024
"""Linux takes at most 128 KiB in one variable (MAX_ARG_STRLEN); this leaves room."""


def environment(
    spec: FunctionSpec, execution: Execution, input_: bytes, deadline: datetime
) -> dict[str, str]:
    """Return the environment of an execution's process, the function's own variables included.

    Where containers are created ahead, no execution knows more than those can: what a function
    finds must not depend on whether there was one.
    """
    lasting = lasting_environment(spec, RevisionName(execution.function, execution.revision))
    if spec.scaling.min_instances:
        return lasting
    ours = {
        "SKYBRIDGE_EXECUTION_ID": execution.name.execution,
        "SKYBRIDGE_ATTEMPT": str(execution.attempt),
        "SKYBRIDGE_DEADLINE": deadline.isoformat(timespec="milliseconds"),
    }
    if execution.traceparent:
        ours["TRACEPARENT"] = execution.traceparent
    if spec.contract.input is InputMode.ENV:
        ours["SKYBRIDGE_INPUT"] = input_.decode()
    return {**lasting, **ours}


def lasting_environment(spec: FunctionSpec, revision: RevisionName) -> dict[str, str]:
    """Return what is the same for all executions of a revision."""
    ours = {
        "SKYBRIDGE_FUNCTION": str(revision.function),
        "SKYBRIDGE_REVISION": str(revision.number),
    }
    return {**spec.env, **ours}
