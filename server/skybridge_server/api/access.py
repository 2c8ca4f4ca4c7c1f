"""Lets callers in, or not, by the token in their metadata; and tells the log who they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

from skybridge_server.api.permissions import PACKAGE, RULES, Rule, namespace_of
from skybridge_server.errors import PermissionDeniedError
from skybridge_server.models.names import DEFAULT_NAMESPACE, ID_PATTERN
from skybridge_server.models.tokens import GRANTS, Permission, Token
from skybridge_server.services.tokens import OPERATOR, TokenService

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "
_OPEN = (
    "grpc.health.v1.Health/",
    "grpc.reflection.v1.ServerReflection/",
    "grpc.reflection.v1alpha.ServerReflection/",
)
"""Services that everybody may call."""
MAX_LOGGED = 256
_NEW = {"function_id": "functions", "schedule_id": "schedules", "secret_id": "secrets"}
_LOGGED = re.compile(rf"(?:{ID_PATTERN.pattern}/)*(?:{ID_PATTERN.pattern}|[0-9a-f-]{{36}}|[0-9]+)")
"""What is fit for the log: names, in which there is no place for a secret."""

_caller: ContextVar[Token] = ContextVar("caller")
"""Who makes the call that is served."""

Facts: TypeAlias = dict[str, Any]
"""What the log is to say of a call."""
Permit: TypeAlias = Callable[[Any], None]
"""Takes each request of a call. PermissionDeniedError, UnauthenticatedError."""
Guard: TypeAlias = Callable[[Any, Facts], Permit]
"""Takes the context of a call. PermissionDeniedError, UnauthenticatedError."""
GuardOf: TypeAlias = Callable[[str], Guard]
"""Returns the guard of a method, by its full name."""


def open_to_all(_: str) -> Guard:
    """Return what lets every caller of a method in."""
    return _anybody


def _anybody(_context: Any, _facts: Facts) -> Permit:
    _caller.set(OPERATOR)
    return _anything


def _anything(_: Any) -> None: ...


class Access:
    """Makes guards that ask for tokens."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    def guard(self, method: str) -> Guard:
        """Return what lets callers of a method in. KeyError: the method has no rule."""
        if method.startswith(_OPEN):
            return _anybody
        rule = RULES[method]
        if not self._tokens.required and not rule.permission.changes:
            return _anybody
        return partial(self._let_in, method, rule)

    def _let_in(self, method: str, rule: Rule, context: Any, facts: Facts) -> Permit:
        caller = self._tokens.authenticate(bearer(context))
        _caller.set(caller)
        if self._tokens.required:
            facts["caller"] = str(caller)
        if not caller.may(rule.permission):
            raise _insufficient(caller, rule.permission, method)
        return partial(self._permit, caller, rule, facts)

    def _permit(self, caller: Token, rule: Rule, facts: Facts, request: Any) -> None:
        self._tokens.check(caller)  # a call may last longer than its token
        if rule.permission.changes:
            facts["resource"] = _resource(request)
        for name in rule.names(request):
            _check_name(caller, name)


def caller() -> Token:
    """Return who makes the call that is served."""
    return _caller.get()


def check_name(name: str) -> None:
    """Check that who makes this call may act on what a name says. PermissionDeniedError."""
    _check_name(_caller.get(), name)


def _check_name(caller: Token, name: str) -> None:
    namespace = namespace_of(name)
    if namespace is not None and not caller.is_good_in(namespace):
        raise _denied(caller, namespace)


def changes(method: str) -> bool:
    """Tell whether it is worth a line in the log who has called a method."""
    return method in RULES and RULES[method].permission.changes


def bearer(context: Any) -> str | None:
    """Return the secret of the token that a call came with; None: it came without."""
    for key, value in context.invocation_metadata():
        if key == AUTHORIZATION_KEY and value[: len(_SCHEME)].lower() == _SCHEME:
            secret: str = value[len(_SCHEME) :].strip()
            return secret
    return None


def _resource(request: Any) -> str:
    """Return what a request says that it changes; what is no name is `?`, and nothing is ''."""
    name = next(filter(None, _names(request)), "")
    return name if not name or (len(name) < MAX_LOGGED and _LOGGED.fullmatch(name)) else "?"


def _names(request: Any) -> Iterator[str]:
    for field, collection in _NEW.items():
        if id_ := getattr(request, field, ""):
            parent = request.parent or f"namespaces/{DEFAULT_NAMESPACE}"
            yield f"{parent}/{collection}/{id_}" if ID_PATTERN.fullmatch(id_) else "?"
    if id_ := getattr(request, "token_id", ""):
        yield f"tokens/{id_}"
    for part in ("function", "schedule"):  # updates have it inside
        yield getattr(getattr(request, part, None), "name", "")
    yield getattr(request, "name", "")
    yield getattr(request, "parent", "")


def _insufficient(caller: Token, permission: Permission, method: str) -> PermissionDeniedError:
    service, _, rpc = method.removeprefix(f"{PACKAGE}.").partition("/")
    able = " or ".join(role.name for role, granted in GRANTS.items() if permission in granted)
    return PermissionDeniedError(
        f"{caller} has the role {caller.role.name}: {service}.{rpc} needs {able}",
        metadata={"token": str(caller), "role": caller.role.name, "method": method},
    )


def _denied(caller: Token, namespace: str) -> PermissionDeniedError:
    good = ", ".join(f"namespaces/{each}" for each in caller.namespaces)
    short = ", which a name without a namespace means" * (namespace == DEFAULT_NAMESPACE)
    return PermissionDeniedError(
        f"{caller} is not good in namespaces/{namespace}{short}; it is in {good}",
        reason="NAMESPACE_DENIED",
        metadata={"token": str(caller), "namespace": namespace},
    )
