"""What each method does, and where: the permission it needs, and the names in its requests.

A method that is not in the table cannot be served, so that none can be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

from skybridge.faas.v1 import execution_service_pb2, function_pb2, function_service_pb2
from skybridge_server.models.names import DEFAULT_NAMESPACE
from skybridge_server.models.tokens import Permission

Names: TypeAlias = Callable[[Any], Iterable[str]]
"""Returns the names in a request that say in which namespaces it acts; '' is the default one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method: who has a permission in all namespaces that a request names."""

    permission: Permission
    names: Names


# A full name is pairs of a collection and an id: `namespaces/revisions/1` is of a function.
_FULL = re.compile(r"namespaces/([a-z0-9-]+)(?:/[a-z]+/[a-z0-9-]+)*")
_SHORT = re.compile(r"[a-z0-9-]*(?:/revisions/[0-9]+)?")


def namespace_of(name: str) -> str | None:
    """Return the namespace that a resource name says, as its parser understands it.

    None: it is no name, and every parser refuses it.
    """
    if full := _FULL.fullmatch(name):
        return full[1]
    return DEFAULT_NAMESPACE if _SHORT.fullmatch(name) else None


def _field(path: str) -> Names:
    get = attrgetter(path)
    return lambda request: (get(request),)


def _nothing(_: Any) -> Iterable[str]:
    return ()


def _created(request: function_service_pb2.CreateFunctionRequest) -> Iterator[str]:
    yield request.parent
    yield from _destinations(request.function)


def _updated(request: function_service_pb2.UpdateFunctionRequest) -> Iterator[str]:
    yield request.function.name
    paths = request.update_mask.paths
    if not paths or any(path == "*" or _IN_DESTINATIONS.match(path) for path in paths):
        yield from _destinations(request.function)


_IN_DESTINATIONS = re.compile(r"spec$|spec\.destinations(\.|$)")


def _destinations(function: function_pb2.Function) -> Iterator[str]:
    """Yield destinations in other namespaces: whoever sets one has that function executed."""
    destinations = function.spec.destinations
    for destination in (destinations.on_success, destinations.on_failure):
        if "/" in destination.function:
            yield destination.function


def _listed_instances(request: Any) -> Iterator[str]:
    yield request.parent
    if "/" in request.function:
        yield request.function


def _each_by_itself(_: Any) -> Iterable[str]:
    """Return nothing: each execution has an outcome of its own, see `access.check_name`."""
    return ()


def _attached(request: execution_service_pb2.AttachExecutionRequest) -> Iterator[str]:
    match request.WhichOneof("message"):
        case "start":
            yield request.start.function
        case "resume":
            yield request.resume.execution


_ASK, _FOLLOW, _READ = Permission.ASK, Permission.FOLLOW, Permission.READ
_INVOKE, _WRITE, _ADMINISTER = Permission.INVOKE, Permission.WRITE, Permission.ADMINISTER
_NAME, _PARENT, _FUNCTION = _field("name"), _field("parent"), _field("function")

_TABLE: Mapping[str, Mapping[str, tuple[Permission, Names]]] = {
    "FunctionService": {
        "CreateFunction": (_WRITE, _created),
        "GetFunction": (_READ, _NAME),
        "ListFunctions": (_READ, _PARENT),
        "UpdateFunction": (_WRITE, _updated),
        "DeleteFunction": (_WRITE, _NAME),
        "DeployFunction": (_WRITE, _NAME),
        "GetRevision": (_READ, _NAME),
        "ListRevisions": (_READ, _PARENT),
        "RollbackFunction": (_WRITE, _NAME),
        "DisableFunction": (_WRITE, _NAME),
        "EnableFunction": (_WRITE, _NAME),
    },
    "ExecutionService": {
        "ExecuteFunction": (_INVOKE, _FUNCTION),
        "InvokeStream": (_INVOKE, _each_by_itself),
        "ExecuteBatch": (_INVOKE, _each_by_itself),
        "StartExecution": (_INVOKE, _FUNCTION),
        "StreamExecution": (_INVOKE, _FUNCTION),
        "WatchExecution": (_FOLLOW, _NAME),
        "AttachExecution": (_INVOKE, _attached),
        "GetExecution": (_FOLLOW, _NAME),
        "ListExecutions": (_READ, _PARENT),
        "WaitExecution": (_FOLLOW, _NAME),
        "CancelExecution": (_INVOKE, _NAME),
        "DeleteExecution": (_WRITE, _NAME),
        "ReadLogs": (_READ, _NAME),
    },
    "DeadLetterService": {
        "ListDeadLetters": (_READ, _PARENT),
        "GetDeadLetter": (_READ, _NAME),
        "RedriveDeadLetter": (_WRITE, _NAME),
        "RedriveDeadLetters": (_WRITE, _PARENT),
        "PurgeDeadLetters": (_WRITE, _PARENT),
    },
    "ScheduleService": {
        "CreateSchedule": (_WRITE, _PARENT),
        "GetSchedule": (_READ, _NAME),
        "ListSchedules": (_READ, _PARENT),
        "UpdateSchedule": (_WRITE, _field("schedule.name")),
        "DeleteSchedule": (_WRITE, _NAME),
        "PauseSchedule": (_WRITE, _NAME),
        "ResumeSchedule": (_WRITE, _NAME),
        "TriggerSchedule": (_INVOKE, _NAME),
    },
    "SecretService": {
        "CreateSecret": (_WRITE, _PARENT),
        "GetSecret": (_READ, _NAME),
        "ListSecrets": (_READ, _PARENT),
        "UpdateSecret": (_WRITE, _NAME),
        "DeleteSecret": (_WRITE, _NAME),
    },
    "InstanceService": {
        "ListInstances": (_READ, _listed_instances),
        "GetInstance": (_READ, _NAME),
        "StopInstance": (_WRITE, _NAME),
    },
    "MetricsService": {"GetFunctionMetrics": (_READ, _NAME)},
    "SystemService": {
        "GetSystemInfo": (_ASK, _nothing),
        "ListRuntimes": (_ASK, _nothing),
        "PullImage": (_ADMINISTER, _nothing),
        "DrainServer": (_ADMINISTER, _nothing),
    },
    "TokenService": {
        "CreateToken": (_ADMINISTER, _nothing),
        "GetToken": (_ADMINISTER, _nothing),
        "ListTokens": (_ADMINISTER, _nothing),
        "DeleteToken": (_ADMINISTER, _nothing),
        "GetCaller": (_ASK, _nothing),
    },
}

PACKAGE = "skybridge.faas.v1"
RULES: Mapping[str, Rule] = {
    f"{PACKAGE}.{service}/{method}": Rule(permission, names)
    for service, methods in _TABLE.items()
    for method, (permission, names) in methods.items()
}
"""By full name of the method, such as `skybridge.faas.v1.FunctionService/GetFunction`."""
