"""Resource names in requests: short and full forms in, names out.

A parser that finds a wrong name notes it and returns one that is never used, so that the check of
the other fields goes on.
"""

from __future__ import annotations

import re
from functools import lru_cache

from skybridge_server.models.names import (
    DEFAULT_NAMESPACE,
    ID_PATTERN,
    ID_RULE,
    ExecutionName,
    FunctionName,
    InstanceName,
    RevisionName,
    ScheduleName,
    SecretName,
)
from skybridge_server.models.tokens import TokenName
from skybridge_server.services.violations import Violations

_ID = ID_PATTERN.pattern
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAMESPACE = re.compile(rf"namespaces/({_ID})")
_BARE_ID = re.compile(rf"({_ID})")
_FUNCTION = re.compile(rf"(?:namespaces/({_ID})/functions/)?({_ID})")
_REVISION = re.compile(rf"(?:namespaces/({_ID})/functions/)?({_ID})/revisions/([1-9][0-9]{{0,17}})")
_EXECUTION = re.compile(rf"(?:namespaces/({_ID})/executions/)?({_UUID})")
_INSTANCE = re.compile(rf"(?:namespaces/({_ID})/instances/)?({_UUID})")
_SCHEDULE = re.compile(rf"(?:namespaces/({_ID})/schedules/)?({_ID})")
_SECRET = re.compile(rf"(?:namespaces/({_ID})/secrets/)?({_ID})")
_TOKEN = re.compile(rf"(?:tokens/)?({_ID})")
_MAX_FUNCTION_LENGTH = len("namespaces//functions/") + 2 * 63
_FULL_EXECUTION = re.compile(rf"namespaces/({_ID})/executions/({_UUID})")

_FUNCTION_RULE = (
    f"must be namespaces/{{namespace}}/functions/{{function}} or {{function}}; each id {ID_RULE}"
)
_SCHEDULE_RULE = (
    f"must be namespaces/{{namespace}}/schedules/{{schedule}} or {{schedule}}; each id {ID_RULE}"
)
_REVISION_RULE = (
    "must be namespaces/{namespace}/functions/{function}/revisions/{number} or"
    " {function}/revisions/{number}"
)
_EXECUTION_RULE = (
    "must be namespaces/{namespace}/executions/{execution} or {execution}; the id is a UUID in"
    " lower case"
)
_INSTANCE_RULE = (
    "must be namespaces/{namespace}/instances/{instance} or {instance}; the id is a UUID in"
    " lower case"
)

_SECRET_RULE = (
    f"must be namespaces/{{namespace}}/secrets/{{secret}} or {{secret}}; each id {ID_RULE}"
)
_TOKEN_RULE = f"must be tokens/{{token}} or {{token}}; the id {ID_RULE}"


def namespace(value: str, field: str, wrong: Violations) -> str:
    """Return the id of a namespace; an empty value stands for the default one."""
    if not value:
        return DEFAULT_NAMESPACE
    match = _match(
        _NAMESPACE, value, f"must be namespaces/{{namespace}}; the id {ID_RULE}", field, wrong
    )
    return match[1] if match else ""


def required_namespace(value: str, field: str, wrong: Violations) -> str:
    """Return the id of a namespace, which must be named."""
    if not value:
        wrong.add(field, "is required")
    return namespace(value, field, wrong)


def new_function(parent: str, function_id: str, wrong: Violations) -> FunctionName:
    """Return the name of a function to create."""
    space = namespace(parent, "parent", wrong)
    _match(_BARE_ID, function_id, ID_RULE, "function_id", wrong)
    return FunctionName(space, function_id)


def function(
    value: str, field: str, wrong: Violations, *, default: str = DEFAULT_NAMESPACE
) -> FunctionName:
    """Return the name of a function; a short one is of the namespace `default`."""
    name = _function(value, default) if len(value) <= _MAX_FUNCTION_LENGTH else None
    if name is None:
        wrong.add(field, _FUNCTION_RULE if value else "is required")
    return name or FunctionName("", "")


@lru_cache(maxsize=4096)  # the same few come with every call
def _function(value: str, default: str) -> FunctionName | None:
    match = _FUNCTION.fullmatch(value)
    return match and FunctionName(match[1] or default, match[2])


def revision(value: str, field: str, wrong: Violations) -> RevisionName:
    match = _match(_REVISION, value, _REVISION_RULE, field, wrong)
    if match is None:
        return RevisionName(FunctionName("", ""), 0)
    return RevisionName(FunctionName(match[1] or DEFAULT_NAMESPACE, match[2]), int(match[3]))


def execution(value: str, field: str, wrong: Violations) -> ExecutionName:
    match = _match(_EXECUTION, value, _EXECUTION_RULE, field, wrong)
    return (
        ExecutionName(match[1] or DEFAULT_NAMESPACE, match[2]) if match else ExecutionName("", "")
    )


def instance(value: str, field: str, wrong: Violations) -> InstanceName:
    match = _match(_INSTANCE, value, _INSTANCE_RULE, field, wrong)
    return InstanceName(match[1] or DEFAULT_NAMESPACE, match[2]) if match else InstanceName("", "")


def new_schedule(parent: str, schedule_id: str, wrong: Violations) -> ScheduleName:
    """Return the name of a schedule to create."""
    space = namespace(parent, "parent", wrong)
    _match(_BARE_ID, schedule_id, ID_RULE, "schedule_id", wrong)
    return ScheduleName(space, schedule_id)


def schedule(value: str, field: str, wrong: Violations) -> ScheduleName:
    match = _match(_SCHEDULE, value, _SCHEDULE_RULE, field, wrong)
    return ScheduleName(match[1] or DEFAULT_NAMESPACE, match[2]) if match else ScheduleName("", "")


def new_secret(parent: str, secret_id: str, wrong: Violations) -> SecretName:
    """Return the name of a secret to create."""
    space = namespace(parent, "parent", wrong)
    _match(_BARE_ID, secret_id, ID_RULE, "secret_id", wrong)
    return SecretName(space, secret_id)


def secret(value: str, field: str, wrong: Violations) -> SecretName:
    match = _match(_SECRET, value, _SECRET_RULE, field, wrong)
    return SecretName(match[1] or DEFAULT_NAMESPACE, match[2]) if match else SecretName("", "")


def new_token(token_id: str, wrong: Violations) -> TokenName:
    """Return the name of a token to create."""
    _match(_BARE_ID, token_id, ID_RULE, "token_id", wrong)
    return TokenName(token_id)


def token(value: str, field: str, wrong: Violations) -> TokenName:
    match = _match(_TOKEN, value, _TOKEN_RULE, field, wrong)
    return TokenName(match[1]) if match else TokenName("")


def execution_or_function(
    value: str, field: str, wrong: Violations
) -> ExecutionName | FunctionName:
    """Return the name of an execution, which must be a full one, or of a function."""
    match = _FULL_EXECUTION.fullmatch(value)
    if match is not None:
        return ExecutionName(match[1], match[2])
    rule = f"{_FUNCTION_RULE}; or namespaces/{{namespace}}/executions/{{execution}}"
    match = _match(_FUNCTION, value, rule, field, wrong)
    return FunctionName(match[1] or DEFAULT_NAMESPACE, match[2]) if match else FunctionName("", "")


def _match(
    pattern: re.Pattern[str], value: str, rule: str, field: str, wrong: Violations
) -> re.Match[str] | None:
    match = pattern.fullmatch(value)
    if match is None:
        wrong.add(field, rule if value else "is required")
    return match
