"""Lets callers in, or not, by the token in their metadata; and notes for the log who they are."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

from structlog.contextvars import bind_contextvars

from skybridge_server.api.permissions import PACKAGE, RULES, Rule, namespace_of
from skybridge_server.errors import PermissionDeniedError
from skybridge_server.models.tokens import GRANTS, Permission, Token
from skybridge_server.services.tokens import OPERATOR, TokenService

AUTHORIZATION_KEY = "authorization"
_SCHEME = "bearer "
_NAMED_BY = ("name", "function_id", "schedule_id", "token_id", "image")

_caller: ContextVar[Token] = ContextVar("caller", default=OPERATOR)
"""Who makes the call that is served."""

Permit: TypeAlias = Callable[[Any], None]
"""Takes each request of a call. PermissionDeniedError, UnauthenticatedError."""
Guard: TypeAlias = Callable[[Any], Permit]
"""Takes the context of a call. PermissionDeniedError, UnauthenticatedError."""
GuardOf: TypeAlias = Callable[[str], Guard]
"""Returns the guard of a method, by its full name."""


def open_to_all(_: str) -> Guard:
    """Return what lets every caller of a method in."""
    return _let_in


def _let_in(_: Any) -> Permit:
    return _permit


def _permit(_: Any) -> None: ...


class Access:
    """Makes guards that ask for tokens."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    def guard(self, method: str) -> Guard:
        """Return what lets callers of a method in. KeyError: the method has no rule."""
        if not method.startswith(PACKAGE):  # health and reflection
            return _let_in
        rule = RULES[method]
        if not self._tokens.required and not rule.permission.changes:
            return _let_in
        let_in = partial(self._let_in, method, rule)
        return partial(_with_the_first, let_in) if rule.callers_speak_first else let_in

    def _let_in(self, method: str, rule: Rule, context: Any) -> Permit:
        caller = self._tokens.authenticate(bearer(context))
        if self._tokens.required:
            _caller.set(caller)
            bind_contextvars(caller=str(caller))
        if not caller.may(rule.permission):
            raise _insufficient(caller, rule.permission, method)
        return partial(self._permit, caller, rule)

    def _permit(self, caller: Token, rule: Rule, request: Any) -> None:
        self._tokens.check(caller)  # a call may last longer than its token
        names = tuple(rule.names(request))
        if rule.permission.changes:
            bind_contextvars(resources=_told(request, names))
        for name in names:
            _check_name(caller, name)


def _with_the_first(let_in: Guard, context: Any) -> Permit:
    """Return what looks at the caller with the first request of a call, not before."""
    permits: list[Permit] = []

    def permit(request: Any) -> None:
        if not permits:
            permits.append(let_in(context))
        permits[0](request)

    return permit


def check_name(name: str) -> None:
    """Check that who makes this call may act on what a name says. PermissionDeniedError."""
    _check_name(_caller.get(), name)


def _check_name(caller: Token, name: str) -> None:
    namespace = namespace_of(name)
    if not caller.is_good_in(namespace):
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


def _told(request: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a request says that it changes, for the log."""
    more = (getattr(request, field, "") for field in _NAMED_BY)
    return tuple(dict.fromkeys(each for each in (*names, *more) if each))


def _insufficient(caller: Token, permission: Permission, method: str) -> PermissionDeniedError:
    service, _, rpc = method.removeprefix(f"{PACKAGE}.").partition("/")
    able = " or ".join(role.name for role, granted in GRANTS.items() if permission in granted)
    return PermissionDeniedError(
        f"{caller} has the role {caller.role.name}: {service}.{rpc} needs {able}",
        metadata={"token": str(caller), "role": caller.role.name, "method": method},
    )


def _denied(caller: Token, namespace: str) -> PermissionDeniedError:
    good = ", ".join(f"namespaces/{each}" for each in caller.namespaces)
    return PermissionDeniedError(
        f"{caller} is not good in namespaces/{namespace}, only in {good}",
        reason="NAMESPACE_DENIED",
        metadata={"token": str(caller), "namespace": namespace},
    )
