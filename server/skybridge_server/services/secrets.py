"""Secrets: values that only containers of functions get to see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from skybridge_server.errors import (
    AbortedError,
    ContainerStartError,
    FailedPreconditionError,
    NotFoundError,
)
from skybridge_server.models.functions import FunctionSpec, Revision
from skybridge_server.models.names import SecretName, new_id
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.models.secrets import Secret
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import idempotency
from skybridge_server.services.clock import Clock
from skybridge_server.services.etags import check_etag
from skybridge_server.services.requests import RequestKey


class SecretService:
    """All secrets of one server."""

    def __init__(self, repositories: Repositories, clock: Clock) -> None:
        self._requests = repositories.requests
        self._secrets = repositories.secrets
        self._clock = clock

    # -- for callers ----------------------------------------------------------------------------

    async def make_key(self) -> None:
        """See to it that there is a key, if this is to be the first secret. StorageError."""
        await self._secrets.make_key()

    async def mark(self, value: bytes) -> bytes:
        """Return what stands for a value where it must not be stored, and tells it from others.

        FailedPreconditionError (reason SECRETS_SEALED).
        """
        return await self._secrets.mark(value)

    async def create(self, name: SecretName, value: bytes, *, key: RequestKey | None) -> Secret:
        """Create a secret. AlreadyExistsError, FailedPreconditionError (SECRETS_SEALED)."""
        now = self._clock.now()
        secret = Secret(name, len(value), now, now, etag=new_id())

        async def do() -> Secret:
            await self._secrets.create(secret, value, idempotency.record(key, resource=str(name)))
            return secret

        return await self._once(name, key, do)

    async def get(self, name: SecretName) -> Secret:
        """Return what is to be known of a secret. NotFoundError."""
        return await self._secrets.get(name)

    async def list(self, namespace: str, page: PageRequest) -> Page[Secret]:
        """Return a page of the secrets of a namespace, by name."""
        return await self._secrets.list(namespace, page)

    async def update(
        self, name: SecretName, value: bytes, *, etag: str, key: RequestKey | None
    ) -> Secret:
        """Set another value. NotFoundError, AbortedError, FailedPreconditionError."""

        async def do() -> Secret:
            while True:
                current = await self._secrets.get(name)
                check_etag(current, etag)
                now = self._clock.now()
                changed = replace(current, value_bytes=len(value), update_time=now, etag=new_id())
                with suppress(AbortedError):  # with the caller's etag, the next look refuses
                    record = idempotency.record(key, resource=str(name))
                    await self._secrets.update(
                        changed, value, expected_etag=current.etag, request=record
                    )
                    return changed

        return await self._once(name, key, do)

    async def delete(self, name: SecretName, *, etag: str, key: RequestKey | None) -> None:
        """Delete a secret. NotFoundError, AbortedError."""

        async def do() -> None:
            while True:
                current = await self._secrets.get(name)
                check_etag(current, etag)
                with suppress(AbortedError):  # with the caller's etag, the next look refuses
                    record = idempotency.record(key)
                    return await self._secrets.delete(
                        name, expected_etag=current.etag, request=record
                    )

        async def repeat(_: Request) -> None:
            """Nothing is left to say."""

        await idempotency.once(self._requests, key, do, repeat)

    # -- for functions --------------------------------------------------------------------------

    async def check(self, spec: FunctionSpec, namespace: str) -> None:
        """Check that containers of a function can have its secrets. FailedPreconditionError."""
        for id_ in spec.secrets.values():
            await self._value(SecretName(namespace, id_))

    async def files(self, revision: Revision) -> Mapping[str, bytes]:
        """Return the files of a container of a revision, by name. ContainerStartError."""
        namespace = revision.name.function.namespace
        try:
            return {
                file: await self._value(SecretName(namespace, id_))
                for file, id_ in revision.spec.secrets.items()
            }
        except FailedPreconditionError as error:
            raise ContainerStartError(error.message) from error

    async def _value(self, name: SecretName) -> bytes:
        try:
            return await self._secrets.value(name)
        except NotFoundError:
            raise FailedPreconditionError(
                f"secret '{name}' does not exist: create it, or take it out of spec.secrets",
                reason="SECRET_NOT_FOUND",
                metadata={"resource": str(name)},
            ) from None

    # -- inside ---------------------------------------------------------------------------------

    async def _once(
        self, name: SecretName, key: RequestKey | None, do: Callable[[], Awaitable[Secret]]
    ) -> Secret:
        async def repeat(_: Request) -> Secret:
            return await self._secrets.get(name)

        return await idempotency.once(self._requests, key, do, repeat)
