"""Tokens: makes them, forgets them, and tells by its secret who calls."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog

from skybridge_server.errors import FailedPreconditionError, NotFoundError, UnauthenticatedError
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.tokens import Role, Token, TokenName
from skybridge_server.models.values import value
from skybridge_server.repositories.base import TokenRepository
from skybridge_server.services.clock import Clock
from skybridge_server.services.rules import check_description
from skybridge_server.services.violations import Violations

log = structlog.get_logger(__name__)

PREFIX = "sky_"
"""Of secrets, so that those who look for leaked ones find them."""
SECRET_BYTES = 32
EXPIRED_KEPT = timedelta(days=7)
MAX_NAMESPACES = 64

OPERATOR = Token(TokenName(""), Role.ADMIN)
"""What whoever has the operator's token calls with, and everybody where none is asked for."""


@value(frozen=True, slots=True)
class TokenDraft:
    """What a user says of a token."""

    role: Role
    namespaces: tuple[str, ...] = ()
    description: str = ""
    expire_time: datetime | None = None


def check_draft(draft: TokenDraft, now: datetime, wrong: Violations) -> None:
    """Check what a user says of a token."""
    spaces = draft.namespaces
    if spaces and draft.role is Role.ADMIN:
        wrong.add("token.namespaces", "must be empty for ADMIN, who may change the server itself")
    if len(spaces) > MAX_NAMESPACES:
        wrong.add("token.namespaces", f"must be at most {MAX_NAMESPACES}, are {len(spaces)}")
    if len(set(spaces)) < len(spaces):
        wrong.add("token.namespaces", "must not name one twice")
    check_description(draft.description, "token.description", wrong)
    if draft.expire_time is not None and draft.expire_time <= now:
        wrong.add("token.expire_time", f"must be in the future, is {draft.expire_time:%FT%TZ}")


class TokenService:
    """All tokens of one server. They are few, so all are at hand, and each call is quick to check.

    For the event loop alone.
    """

    def __init__(self, tokens: TokenRepository, clock: Clock, admin_token: str) -> None:
        """`admin_token`: the operator's; '' where callers need none."""
        self.required = bool(admin_token)
        self._operators = _hash(admin_token)
        self._tokens = tokens
        self._clock = clock
        self._by_hash: dict[bytes, Token] = {}
        self._by_name: dict[TokenName, Token] = {}
        self._in_turn = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Read those of the store. StorageError."""
        for token in await self._tokens.all():
            self._add(token)

    def authenticate(self, secret: str | None) -> Token:
        """Return the token of a caller, who has sent this secret. UnauthenticatedError."""
        if not self.required:
            return OPERATOR
        if secret is None:
            raise UnauthenticatedError(
                "this server asks for a token: send it as 'authorization: Bearer TOKEN'"
                " (skybridge: set SKYBRIDGE_TOKEN), or ask the server's operator for one"
            )
        secret_hash = _hash(secret)
        if secret_hash == self._operators:
            return OPERATOR
        token = self._by_hash.get(secret_hash)
        if token is None:
            raise _unknown()
        self.check(token)
        return token

    def check(self, token: Token) -> None:
        """Check that a token is still good. UnauthenticatedError: expired, or deleted."""
        if token is OPERATOR:
            return
        if self._by_hash.get(token.secret_hash) is not token:
            raise _unknown()
        if token.expired(self._clock.now()):
            raise UnauthenticatedError(
                f"{token} expired at {token.expire_time:%FT%TZ}: ask for a new one",
                reason="TOKEN_EXPIRED",
                metadata={"token": str(token)},
            )

    async def create(self, name: TokenName, draft: TokenDraft) -> tuple[Token, str]:
        """Make a token, and return it and its secret.

        AlreadyExistsError. FailedPreconditionError (reason TOKENS_OFF).
        """
        if not self.required:
            raise FailedPreconditionError(
                "everybody may do everything here, and must not gain more for later: set"
                " FAAS_ADMIN_TOKEN first",
                reason="TOKENS_OFF",
            )
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        token = Token(
            name,
            draft.role,
            tuple(sorted(draft.namespaces)),
            draft.description,
            create_time=self._clock.now(),
            expire_time=draft.expire_time,
            secret_hash=_hash(secret),
        )
        await self._to_the_end(self._create(token))
        return token, secret

    def get(self, name: TokenName) -> Token:
        """Return a token. NotFoundError."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NotFoundError("token", str(name)) from None

    def list(self, page: PageRequest) -> Page[Token]:
        """Return a page of the tokens, by name."""
        after = TokenName(str(page.after[0])) if page.after else TokenName("")
        names = sorted(name for name in self._by_name if name > after)
        items = tuple(self._by_name[name] for name in names[: page.size])
        more = len(names) > page.size
        return Page(items, (names[page.size - 1].token,) if more else None)

    async def delete(self, name: TokenName) -> None:
        """Delete a token: it is good no longer. NotFoundError."""
        await self._to_the_end(self._delete(name))

    async def forget_expired(self) -> None:
        """Delete tokens that have expired long ago."""
        long_ago = self._clock.now() - EXPIRED_KEPT
        for name in [name for name, token in self._by_name.items() if token.expired(long_ago)]:
            with suppress(NotFoundError):  # somebody else was faster
                await self.delete(name)

    async def _create(self, token: Token) -> None:
        async with self._in_turn:
            await self._tokens.create(token)
            self._add(token)

    async def _delete(self, name: TokenName) -> None:
        async with self._in_turn:
            token = self.get(name)
            await self._tokens.delete(name)
            del self._by_name[name], self._by_hash[token.secret_hash]

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Make a change whole, in the store and here, also if who asked for it leaves."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)
            raise

    def _add(self, token: Token) -> None:
        self._by_name[token.name] = token
        self._by_hash[token.secret_hash] = token


def _tell(change: asyncio.Task[None]) -> None:
    """Say what nobody waits for any more."""
    if not change.cancelled() and (error := change.exception()) is not None:
        log.warning("a token was not changed", detail=str(error))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError(
        "this server does not know the token: it was never made, or is deleted",
        reason="TOKEN_UNKNOWN",
    )
