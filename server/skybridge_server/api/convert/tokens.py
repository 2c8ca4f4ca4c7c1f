"""Tokens."""

from __future__ import annotations

from skybridge.faas.v1 import token_pb2 as pb
from skybridge_server.api import names
from skybridge_server.api.convert.values import (
    optional_enum_from_proto,
    optional_timestamp_from_proto,
    optional_timestamp_to_proto,
)
from skybridge_server.models.tokens import Role, Token
from skybridge_server.services.tokens import TokenDraft
from skybridge_server.services.violations import Violations


def token_to_proto(token: Token) -> pb.Token:
    return pb.Token(
        name=str(token.name) if token.name.token else "",
        role=pb.Role.ValueType(token.role),
        namespaces=[f"namespaces/{namespace}" for namespace in token.namespaces],
        description=token.description,
        create_time=optional_timestamp_to_proto(token.create_time),
        expire_time=optional_timestamp_to_proto(token.expire_time),
    )


def draft_from_proto(message: pb.Token, wrong: Violations) -> TokenDraft:
    if message.role == pb.ROLE_UNSPECIFIED:
        wrong.add("token.role", "is required: ROLE_VIEWER, _INVOKER, _DEVELOPER or _ADMIN")
    return TokenDraft(
        role=optional_enum_from_proto(Role, message.role, "token.role", wrong) or Role.VIEWER,
        namespaces=tuple(
            names.required_namespace(each, f"token.namespaces[{number}]", wrong)
            for number, each in enumerate(message.namespaces)
        ),
        description=message.description,
        expire_time=optional_timestamp_from_proto(message, "expire_time", "token.", wrong),
    )
