"""Tokens in SQLite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from peewee import IntegrityError, SqliteDatabase

from skybridge_server.errors import AlreadyExistsError, NotFoundError
from skybridge_server.models.tokens import Role, Token, TokenName
from skybridge_server.repositories.codec import from_optional_time, optional, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.tables import TokenRow


class SqliteTokens:
    """Tokens; of their secrets, only hashes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, token: Token) -> None:
        def job(db: SqliteDatabase) -> None:
            try:
                TokenRow.insert(_to_row(token)).execute(db)
            except IntegrityError as error:
                raise AlreadyExistsError(
                    f"{token} exists already: choose another name, or delete it first",
                    reason="TOKEN_EXISTS",
                    metadata={"resource": str(token)},
                ) from error

        await self._database.write(job)

    async def all(self) -> Sequence[Token]:
        def job(db: SqliteDatabase) -> list[Token]:
            return [_from_row(row) for row in TokenRow.select().dicts().execute(db)]

        return await self._database.read(job)

    async def delete(self, name: TokenName) -> None:
        def job(db: SqliteDatabase) -> None:
            if not TokenRow.delete().where(TokenRow.token == name.token).execute(db):
                raise NotFoundError("token", str(name))

        await self._database.write(job)


def _to_row(token: Token) -> dict[str, Any]:
    return {
        "token": token.name.token,
        "secret_hash": token.secret_hash,
        "role": token.role,
        "namespaces": json.dumps(token.namespaces),
        "description": token.description,
        "create_time": from_optional_time(token.create_time),
        "expire_time": from_optional_time(token.expire_time),
    }


def _from_row(row: dict[str, Any]) -> Token:
    return Token(
        name=TokenName(row["token"]),
        role=Role(row["role"]),
        namespaces=tuple(json.loads(row["namespaces"])),
        description=row["description"],
        create_time=to_time(row["create_time"]),
        expire_time=optional(to_time, row["expire_time"]),
        secret_hash=bytes(row["secret_hash"]),
    )
