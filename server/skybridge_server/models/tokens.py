"""Tokens: who calls, and what the caller may do."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime

from skybridge_server.models.values import value


class Permission(enum.Enum):
    """What a call does, as far as it matters for who may make it."""

    ASK = "ask"
    """Ask what all callers may know: versions, and who they are."""
    FOLLOW = "follow"
    """Get and follow an execution whose name the caller knows."""
    READ = "read"
    """Read and list anything, but tokens."""
    INVOKE = "invoke"
    """Start and cancel executions."""
    WRITE = "write"
    """Change what is in a namespace."""
    ADMINISTER = "administer"
    """Change what is in none, the server and its engines, and have to do with tokens."""

    @property
    def changes(self) -> bool:
        """Whether it is worth a line in the log who did so."""
        return self in {Permission.WRITE, Permission.ADMINISTER}


class Role(enum.IntEnum):
    """What a caller may do. Values as in the proto."""

    VIEWER = 1
    INVOKER = 2
    DEVELOPER = 3
    ADMIN = 4


GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.ASK, Permission.FOLLOW, Permission.READ}),
    Role.INVOKER: frozenset({Permission.ASK, Permission.FOLLOW, Permission.INVOKE}),
    Role.DEVELOPER: frozenset(set(Permission) - {Permission.ADMINISTER}),
    Role.ADMIN: frozenset(Permission),
}


@value(frozen=True, slots=True, order=True)
class TokenName:
    """Name of a token, which belongs to no namespace."""

    token: str

    def __str__(self) -> str:
        return f"tokens/{self.token}"


@value(frozen=True, slots=True)
class Token:
    """Lets whoever knows its secret do what a role may, in some namespaces or in all."""

    name: TokenName
    """Empty for that of the operator, which is in no store."""
    role: Role
    namespaces: tuple[str, ...] = ()
    """Ids; empty for all."""
    description: str = ""
    create_time: datetime | None = None
    """None for that of the operator."""
    expire_time: datetime | None = None
    secret_hash: bytes = b""
    """SHA-256. A secret is drawn at random from 2**256, so it needs neither salt nor slowness."""

    def __str__(self) -> str:
        return str(self.name) if self.name.token else "the operator's token"

    def may(self, permission: Permission) -> bool:
        """Tell whether its role has a permission, wherever it is good."""
        return permission in GRANTS[self.role]

    def is_good_in(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces

    def expired(self, now: datetime) -> bool:
        return self.expire_time is not None and self.expire_time <= now
