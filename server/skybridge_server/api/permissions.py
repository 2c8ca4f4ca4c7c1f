"""What each method does, and where: the permission it needs, and the names in its requests.

A method that is not in the table cannot be served, so that none can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from skybridge.faas.v1 import execution_service_pb2, function_service_pb2
from skybridge_server.models.names import DEFAULT_NAMESPACE
from skybridge_server.models.tokens import Permission

Names = Callable[[Any], Iterable[str]]
"""Returns the names in a request that say in which namespaces it acts; '' is the default one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method: who has a permission in all namespaces that a request names."""

    permission: Permission
    names: Names
    callers_speak_first: bool
    """Whether they send a request before they hear anything. A refusal that is sooner would meet
    it on its way, and clients of grpc.aio then say INTERNAL, whatever the server said."""


def namespace_of(name: str) -> str:
    """Return the namespace of a resource name, as its parser would, if it takes the name at all."""
    collection, *rest = name.split("/")
    # A full name is pairs of a collection and an id; `namespaces/revisions/1` is of a function.
    return rest[0] if collection == "namespaces" and len(rest) % 2 else DEFAULT_NAMESPACE


def _field(path: str) -> Names:
    get = attrgetter(path)
    return lambda request: (get(request),)


def _nothing(_: Any) -> Iterable[str]:
    return ()


def _created(request: function_service_pb2.CreateFunctionRequest) -> Iterator[str]:
    yield request.parent
    yield from _told(request)


def _updated(request: function_service_pb2.UpdateFunctionRequest) -> Iterator[str]:
    yield request.function.name
    yield from _told(request)


def _told(
    request: function_service_pb2.CreateFunctionRequest
    | function_service_pb2.UpdateFunctionRequest,
) -> Iterator[str]:
    """Yield destinations in other namespaces: whoever sets one has that function executed."""
    destinations = request.function.spec.destinations
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
    f"{PACKAGE}.{service}/{method}": Rule(permission, names, method == "AttachExecution")
    for service, methods in _TABLE.items()
    for method, (permission, names) in methods.items()
}
"""By full name of the method, such as `skybridge.faas.v1.FunctionService/GetFunction`."""
