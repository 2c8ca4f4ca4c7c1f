"""Tokens: who is known by which secret, and for how long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from skybridge_server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    UnauthenticatedError,
)
from skybridge_server.models.paging import PageRequest
from skybridge_server.models.tokens import GRANTS, Permission, Role, Token, TokenName
from skybridge_server.services.clock import Clock
from skybridge_server.services.tokens import (
    EXPIRED_KEPT,
    OPERATOR,
    TokenDraft,
    TokenService,
    check_draft,
)
from skybridge_server.services.violations import Violations
from tests.fakes.repositories import FakeTokens

ADMIN = "a" * 32
CI, WEB = TokenName("ci"), TokenName("web")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


class SetClock(Clock):
    """Says what it was told."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> FakeTokens:
    return FakeTokens()


@pytest.fixture
def tokens(store: FakeTokens, clock: SetClock) -> TokenService:
    return TokenService(store, clock, ADMIN)


def refused(tokens: TokenService, secret: str | None) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        tokens.authenticate(secret)
    return caught.value.reason


# -- who is known --------------------------------------------------------------------------------


async def test_a_secret_tells_its_token_and_nothing_else_does(tokens: TokenService) -> None:
    ci, secret = await tokens.create(CI, TokenDraft(Role.DEVELOPER, ("blue",)))
    web, other = await tokens.create(WEB, TokenDraft(Role.INVOKER))
    assert tokens.authenticate(secret) == ci
    assert tokens.authenticate(other) == web
    assert tokens.authenticate(ADMIN) is OPERATOR
    assert refused(tokens, None) == "TOKEN_REQUIRED"
    for wrong in ("", "x", secret[:-1], secret + "x", secret.upper(), "\udce4"):
        assert refused(tokens, wrong) == "TOKEN_UNKNOWN"


async def test_secrets_are_long_different_and_not_kept(
    tokens: TokenService, store: FakeTokens
) -> None:
    secrets = [(await tokens.create(name, TokenDraft(Role.VIEWER)))[1] for name in (CI, WEB)]
    assert len({*secrets}) == 2
    for secret in secrets:
        assert secret.startswith("sky_")
        assert len(secret) == 47
        assert secret not in repr(store.rows)


async def test_where_no_token_is_asked_for_everybody_is_the_operator(
    tokens: TokenService, store: FakeTokens
) -> None:
    _, secret = await tokens.create(CI, TokenDraft(Role.VIEWER))
    unguarded = TokenService(store, SetClock(), admin_token="")
    await unguarded.open()
    assert not unguarded.required
    for anything in (None, "", "x", secret):
        assert unguarded.authenticate(anything) is OPERATOR
    # Nobody keeps what everybody has now.
    with pytest.raises(FailedPreconditionError, match="set FAAS_ADMIN_TOKEN first") as caught:
        await unguarded.create(WEB, TokenDraft(Role.ADMIN))
    assert caught.value.reason == "TOKENS_OFF"
    await unguarded.delete(CI)
    assert not store.rows


async def test_the_operators_token_is_the_operators_whatever_else_it_is(
    tokens: TokenService, store: FakeTokens
) -> None:
    _, secret = await tokens.create(CI, TokenDraft(Role.VIEWER))
    renamed = TokenService(store, SetClock(), secret)
    await renamed.open()
    assert renamed.authenticate(secret) is OPERATOR
    await renamed.delete(CI)
    assert renamed.authenticate(secret) is OPERATOR


async def test_a_server_that_starts_again_knows_all(
    tokens: TokenService, store: FakeTokens
) -> None:
    ci, secret = await tokens.create(CI, TokenDraft(Role.DEVELOPER, ("blue",), "why", NOW + HOUR))
    restarted = TokenService(store, SetClock(), "b" * 32)
    await restarted.open()
    assert restarted.authenticate(secret) == restarted.get(CI) == ci
    assert refused(restarted, ADMIN) == "TOKEN_UNKNOWN"


# -- how long ------------------------------------------------------------------------------------


async def test_a_token_is_good_until_it_expires(tokens: TokenService, clock: SetClock) -> None:
    ci, secret = await tokens.create(CI, TokenDraft(Role.VIEWER, expire_time=NOW + HOUR))
    clock.time = NOW + HOUR - timedelta(microseconds=1)
    assert tokens.authenticate(secret) is ci
    clock.time = NOW + HOUR
    assert refused(tokens, secret) == "TOKEN_EXPIRED"
    with pytest.raises(UnauthenticatedError, match="tokens/ci expired at 2026-01-02T01:00:00Z"):
        tokens.check(ci)


async def test_expired_tokens_are_deleted_after_a_while(
    tokens: TokenService, store: FakeTokens, clock: SetClock
) -> None:
    await tokens.create(CI, TokenDraft(Role.VIEWER, expire_time=NOW + HOUR))
    _, secret = await tokens.create(WEB, TokenDraft(Role.VIEWER))
    clock.time = NOW + HOUR + EXPIRED_KEPT - timedelta(microseconds=1)
    await tokens.forget_expired()
    assert tokens.get(CI).name == CI
    clock.time = NOW + HOUR + EXPIRED_KEPT
    await tokens.forget_expired()
    with pytest.raises(NotFoundError):
        tokens.get(CI)
    assert [*store.rows] == [WEB]
    assert tokens.authenticate(secret).name == WEB


async def test_a_deleted_token_is_good_no_longer(tokens: TokenService, store: FakeTokens) -> None:
    ci, secret = await tokens.create(CI, TokenDraft(Role.VIEWER))
    await tokens.delete(CI)
    assert refused(tokens, secret) == "TOKEN_UNKNOWN"
    with pytest.raises(UnauthenticatedError):
        tokens.check(ci)
    for gone in (tokens.delete(CI), tokens.delete(TokenName("never"))):
        with pytest.raises(NotFoundError):
            await gone
    assert not store.rows


async def test_one_that_is_created_again_has_another_secret(tokens: TokenService) -> None:
    _, old = await tokens.create(CI, TokenDraft(Role.VIEWER))
    with pytest.raises(AlreadyExistsError):
        await tokens.create(CI, TokenDraft(Role.ADMIN))
    assert tokens.authenticate(old).role is Role.VIEWER
    await tokens.delete(CI)
    again, new = await tokens.create(CI, TokenDraft(Role.INVOKER))
    assert refused(tokens, old) == "TOKEN_UNKNOWN"
    assert tokens.authenticate(new) is tokens.get(CI) is again


class SlowTokens(FakeTokens):
    """Takes its time, as a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def create(self, token: Token) -> None:
        await self.go_on.wait()
        await super().create(token)

    async def delete(self, name: TokenName) -> None:
        await self.go_on.wait()
        await super().delete(name)


async def settle() -> None:
    """Let all that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def slow() -> SlowTokens:
    return SlowTokens()


async def test_a_deletion_whose_caller_leaves_is_done(slow: SlowTokens, clock: SetClock) -> None:
    tokens = TokenService(slow, clock, ADMIN)
    _, secret = await tokens.create(CI, TokenDraft(Role.ADMIN))
    slow.go_on.clear()
    deleting = asyncio.create_task(tokens.delete(CI))
    await settle()
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    slow.go_on.set()
    await settle()
    assert refused(tokens, secret) == "TOKEN_UNKNOWN"
    assert not slow.rows


async def test_what_was_created_for_nobody_can_be_deleted(
    slow: SlowTokens, clock: SetClock
) -> None:
    tokens = TokenService(slow, clock, ADMIN)
    slow.go_on.clear()
    creating = asyncio.create_task(tokens.create(CI, TokenDraft(Role.ADMIN)))
    await settle()
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    slow.go_on.set()
    await settle()
    assert tokens.get(CI).name == CI
    await tokens.delete(CI)
    assert (await tokens.create(CI, TokenDraft(Role.ADMIN)))[0] is tokens.get(CI)


async def test_changes_of_one_name_at_once_happen_one_after_the_other(
    slow: SlowTokens, clock: SetClock
) -> None:
    tokens = TokenService(slow, clock, ADMIN)
    _, first = await tokens.create(CI, TokenDraft(Role.ADMIN))
    slow.go_on.clear()
    changes = [
        asyncio.create_task(change)
        for change in (
            tokens.delete(CI),
            tokens.create(CI, TokenDraft(Role.ADMIN)),
            tokens.delete(CI),
        )
    ]
    await settle()
    slow.go_on.set()
    _, (_, second), _ = await asyncio.gather(*changes)  # type: ignore[misc]
    assert [refused(tokens, secret) for secret in (first, second)] == ["TOKEN_UNKNOWN"] * 2
    assert tokens.list(PageRequest(10)).items == ()
    assert not slow.rows


# -- what they are -------------------------------------------------------------------------------


async def test_lists_by_name_page_by_page(tokens: TokenService) -> None:
    for name in ("c", "a", "d", "b"):
        await tokens.create(TokenName(name), TokenDraft(Role.VIEWER))
    first = tokens.list(PageRequest(3))
    assert ([each.name.token for each in first.items], first.next) == (["a", "b", "c"], ("c",))
    second = tokens.list(PageRequest(3, first.next))
    assert ([each.name.token for each in second.items], second.next) == (["d"], None)


@pytest.mark.parametrize(
    ("draft", "wrong"),
    [
        (TokenDraft(Role.VIEWER), []),
        (TokenDraft(Role.DEVELOPER, ("a", "b"), "why\nnot", NOW + HOUR), []),
        (TokenDraft(Role.ADMIN, ("a",)), ["token.namespaces"]),
        (TokenDraft(Role.VIEWER, ("a", "b", "a")), ["token.namespaces"]),
        (TokenDraft(Role.VIEWER, tuple(f"n{i}" for i in range(64))), []),
        (TokenDraft(Role.VIEWER, tuple(f"n{i}" for i in range(65))), ["token.namespaces"]),
        (TokenDraft(Role.VIEWER, expire_time=NOW), ["token.expire_time"]),
        (
            TokenDraft(Role.ADMIN, ("a", "a"), "\0", NOW - HOUR),
            ["token.namespaces", "token.namespaces", "token.description", "token.expire_time"],
        ),
        (TokenDraft(Role.VIEWER, description="x" * 1025), ["token.description"]),
    ],
)
def test_rules(draft: TokenDraft, wrong: list[str]) -> None:
    found = Violations()
    check_draft(draft, NOW, found)
    assert [violation.field for violation in found] == wrong


def test_each_role_may_what_the_one_below_it_may() -> None:
    viewer, invoker = GRANTS[Role.VIEWER], GRANTS[Role.INVOKER]
    assert viewer | invoker < GRANTS[Role.DEVELOPER] < GRANTS[Role.ADMIN] == set(Permission)
    assert viewer & {Permission.INVOKE, Permission.WRITE, Permission.ADMINISTER} == set()
    assert Permission.READ not in invoker


def test_a_token_without_namespaces_is_good_in_all() -> None:
    assert Token(CI, Role.VIEWER).is_good_in("blue")
    some = Token(CI, Role.VIEWER, ("blue", "red"))
    assert some.is_good_in("red")
    assert not some.is_good_in("default")
