"""The labels of our containers: by them, and not by memory, we know what is ours."""

from __future__ import annotations

from collections.abc import Mapping

from skybridge_server.models.executions import Execution
from skybridge_server.models.names import FunctionName, InstanceName, RevisionName

SERVER = "skybridge.server"
FUNCTION = "skybridge.function"
REVISION = "skybridge.revision"
EXECUTION = "skybridge.execution"
INSTANCE = "skybridge.instance"
AHEAD = "skybridge.ahead"
ROLE = "skybridge.role"


def of_server(server_id: str) -> dict[str, str]:
    return {SERVER: server_id}


def of_sandbox(server_id: str) -> dict[str, str]:
    """Return the labels of a container that serves others, and no execution by itself."""
    return {SERVER: server_id, ROLE: "sandbox"}


def of_execution(server_id: str, execution: Execution) -> dict[str, str]:
    return {
        SERVER: server_id,
        FUNCTION: str(execution.function),
        REVISION: str(execution.revision),
        EXECUTION: str(execution.name),
    }


def of_ahead(server_id: str, revision: RevisionName, id_: str) -> dict[str, str]:
    """Return the labels of a container that an execution may take; they stay when it does."""
    return {
        SERVER: server_id,
        FUNCTION: str(revision.function),
        REVISION: str(revision.number),
        AHEAD: id_,
    }


def container_name(execution: Execution) -> str:
    """Return how the container of an attempt is called, whichever process makes it.

    No container of an earlier attempt is called so, should one be left.
    """
    name = f"skybridge-{execution.function.function}-{execution.name.execution}"
    return name if execution.attempt == 1 else f"{name}-{execution.attempt}"


def of_instance(server_id: str, name: InstanceName, revision: RevisionName) -> dict[str, str]:
    return {
        SERVER: server_id,
        FUNCTION: str(revision.function),
        REVISION: str(revision.number),
        INSTANCE: str(name),
    }


def function_of(labels: Mapping[str, str]) -> FunctionName:
    """Return the function of an execution or instance, by the labels of its container."""
    _, namespace, _, function = labels[FUNCTION].split("/")
    return FunctionName(namespace, function)
