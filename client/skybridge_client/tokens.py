"""The calls about tokens, by which callers are known."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from skybridge.faas.v1.token_pb2 import Role, Token
from skybridge.faas.v1.token_service_pb2 import (
    CreateTokenRequest,
    CreateTokenResponse,
    DeleteTokenRequest,
    GetCallerRequest,
    GetCallerResponse,
    GetTokenRequest,
    ListTokensRequest,
)
from skybridge_client.calls import Pages, Unary, nothing, pages, timestamp, unary, whole

RoleName = Literal["viewer", "invoker", "developer", "admin"]


def create_token(
    token_id: str,
    *,
    role: RoleName,
    namespaces: Sequence[str] = (),
    description: str = "",
    expire_time: dt.datetime | None = None,
    timeout: float | None = None,
) -> Unary[CreateTokenResponse]:
    """Creates a token, and returns it with its `secret`, which is never shown again.

    `namespaces` are those that it is good for, `namespaces/{id}`; without, all.
    `expire_time` needs a time zone; None: it is good until it is deleted.

    Raises InvalidArgumentError with every wrong field, AlreadyExistsError.
    """
    token = Token(
        role=Role.Value(f"ROLE_{role.upper()}"),
        namespaces=namespaces,
        description=description,
        expire_time=None if expire_time is None else timestamp("expire_time", expire_time),
    )
    request = CreateTokenRequest(token_id=token_id, token=token)
    return unary(lambda s: s.tokens.CreateToken, request, whole, timeout)


def get_token(name: str, *, timeout: float | None = None) -> Unary[Token]:
    """Returns a token, without its secret. Raises NotFoundError."""
    request = GetTokenRequest(name=name)
    return unary(lambda s: s.tokens.GetToken, request, lambda a: a.token, timeout)


def list_tokens(*, page_size: int = 0, timeout: float | None = None) -> Pages[Token]:
    """Gives all tokens by name; asks for pages as needed. `timeout` is that of each page."""
    request = ListTokensRequest(page_size=page_size)
    return pages(lambda s: s.tokens.ListTokens, request, lambda a: a.tokens, timeout)


def delete_token(name: str, *, timeout: float | None = None) -> Unary[None]:
    """Deletes a token: it is good no longer, from now on. Raises NotFoundError."""
    return unary(lambda s: s.tokens.DeleteToken, DeleteTokenRequest(name=name), nothing, timeout)


def caller(*, timeout: float | None = None) -> Unary[GetCallerResponse]:
    """Returns the `token` that this client calls with: its role, and where it is good.

    It has no name where it is the operator's, or where no token is required.
    """
    return unary(lambda s: s.tokens.GetCaller, GetCallerRequest(), whole, timeout)
