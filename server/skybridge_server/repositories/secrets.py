"""Secrets in SQLite."""

from __future__ import annotations

import asyncio
from typing import Any

from peewee import Expression, IntegrityError, SqliteDatabase

from skybridge_server.errors import AbortedError, AlreadyExistsError, NotFoundError
from skybridge_server.models.names import SecretName
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.models.secrets import Secret
from skybridge_server.repositories.codec import from_time, to_time
from skybridge_server.repositories.database import Database
from skybridge_server.repositories.paging import page_of
from skybridge_server.repositories.requests import record
from skybridge_server.repositories.tables import SecretRow
from skybridge_server.repositories.vault import Vault, load


class SqliteSecrets:
    """Secrets, whose values are encrypted."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def create(self, secret: Secret, value: bytes, request: Request | None = None) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            self._make_key(db)
            self._check_key(db)
            name = {"namespace": secret.name.namespace, "secret": secret.name.secret}
            try:
                SecretRow.insert({**name, **self._to_row(secret, value)}).execute(db)
            except IntegrityError as error:
                raise AlreadyExistsError(
                    f"secret '{secret.name}' exists already: choose another name, or update it",
                    reason="SECRET_EXISTS",
                    metadata={"resource": str(secret.name)},
                ) from error

        await self._load()
        await self._database.write(job, len(value))

    async def get(self, name: SecretName) -> Secret:
        return await self._database.read(lambda db: _from_row(_read(db, name, *READ)))

    async def value(self, name: SecretName) -> bytes:
        def job(db: SqliteDatabase) -> bytes:
            return self._vault.open(_read(db, name, SecretRow.sealed)["sealed"], str(name))

        await self._load()
        return await self._database.read(job)

    async def make_key(self) -> None:
        await self._database.write(self._make_key)

    async def mark(self, value: bytes) -> bytes:
        return await self._database.read(lambda _: self._vault.mark(value))

    async def list(self, namespace: str, page: PageRequest) -> Page[Secret]:
        def job(db: SqliteDatabase) -> Page[Secret]:
            query = SecretRow.select(*READ).where(SecretRow.namespace == namespace)
            if page.after:
                query = query.where(SecretRow.secret > page.after[0])
            rows = query.order_by(SecretRow.secret).limit(page.size + 1).dicts().execute(db)
            found = [_from_row(row) for row in rows]
            return page_of(found, page.size, lambda secret: (secret.name.secret,))

        return await self._database.read(job)

    async def update(
        self, secret: Secret, value: bytes, *, expected_etag: str, request: Request | None = None
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            _check_etag(db, secret.name, expected_etag)
            self._check_key(db)
            row = self._to_row(secret, value)
            SecretRow.update(row).where(_named(secret.name)).execute(db)

        await self._load()
        await self._database.write(job, len(value))

    async def delete(
        self, name: SecretName, *, expected_etag: str, request: Request | None = None
    ) -> None:
        def job(db: SqliteDatabase) -> None:
            record(db, request)
            _check_etag(db, name, expected_etag)
            SecretRow.delete().where(_named(name)).execute(db)

        await self._database.write(job)

    def _make_key(self, db: SqliteDatabase) -> None:
        """See to it that there is a key. One that is missing is not made anew: it may come back."""
        if not self._vault.has_key and not SecretRow.select().exists(db):
            self._vault.make_key()

    def _check_key(self, db: SqliteDatabase) -> None:
        """Seal nothing with a key that does not open what there is: no one key would open both."""
        columns = (SecretRow.namespace, SecretRow.secret, SecretRow.sealed)
        for namespace, secret, sealed in SecretRow.select(*columns).limit(1).tuples().execute(db):
            self._vault.open(sealed, str(SecretName(namespace, secret)))

    async def _load(self) -> None:
        """Load what the vault takes, where nobody waits for it."""
        await asyncio.to_thread(load)

    def _to_row(self, secret: Secret, value: bytes) -> dict[str, Any]:
        return {
            "sealed": self._vault.seal(value, str(secret.name)),
            "value_bytes": secret.value_bytes,
            "create_time": from_time(secret.create_time),
            "update_time": from_time(secret.update_time),
            "etag": secret.etag,
        }


READ = (
    SecretRow.namespace,
    SecretRow.secret,
    SecretRow.value_bytes,
    SecretRow.create_time,
    SecretRow.update_time,
    SecretRow.etag,
)
"""All but the value."""


def _named(name: SecretName) -> Expression:
    return (SecretRow.namespace == name.namespace) & (SecretRow.secret == name.secret)


def _read(db: SqliteDatabase, name: SecretName, *columns: Any) -> dict[str, Any]:
    rows = list(SecretRow.select(*columns).where(_named(name)).dicts().execute(db))
    if not rows:
        raise NotFoundError("secret", str(name))
    row: dict[str, Any] = rows[0]
    return row


def _check_etag(db: SqliteDatabase, name: SecretName, expected: str) -> None:
    if _read(db, name, SecretRow.etag)["etag"] != expected:
        raise AbortedError(f"secret '{name}' was changed by somebody else")


def _from_row(row: dict[str, Any]) -> Secret:
    return Secret(
        name=SecretName(row["namespace"], row["secret"]),
        value_bytes=row["value_bytes"],
        create_time=to_time(row["create_time"]),
        update_time=to_time(row["update_time"]),
        etag=row["etag"],
    )
