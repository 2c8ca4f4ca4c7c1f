"""The calls about secrets, which functions find in files."""

from __future__ import annotations

from skybridge.faas.v1.secret_pb2 import Secret
from skybridge.faas.v1.secret_service_pb2 import (
    CreateSecretRequest,
    DeleteSecretRequest,
    GetSecretRequest,
    ListSecretsRequest,
    UpdateSecretRequest,
)
from skybridge_client.calls import Pages, Unary, new_request_id, nothing, pages, unary


def create_secret(
    secret_id: str,
    value: bytes,
    *,
    parent: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> Unary[Secret]:
    """Creates a secret, and returns what is to be known of it; its value is never shown again.

    Functions of its namespace, `parent`, find it where their `secrets` say.

    Raises InvalidArgumentError, AlreadyExistsError, FailedPreconditionError (the server's key
    for secrets is missing).
    """
    request = CreateSecretRequest(
        parent=parent, secret_id=secret_id, value=value, request_id=new_request_id(request_id)
    )
    return unary(lambda s: s.secrets.CreateSecret, request, lambda a: a.secret, timeout)


def get_secret(name: str, *, timeout: float | None = None) -> Unary[Secret]:
    """Returns what is to be known of a secret, not its value. Raises NotFoundError."""
    request = GetSecretRequest(name=name)
    return unary(lambda s: s.secrets.GetSecret, request, lambda a: a.secret, timeout)


def list_secrets(
    *, parent: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[Secret]:
    """Gives the secrets of a namespace by name; asks for pages as needed.

    `timeout` is that of each page.
    """
    request = ListSecretsRequest(parent=parent, page_size=page_size)
    return pages(lambda s: s.secrets.ListSecrets, request, lambda a: a.secrets, timeout)


def update_secret(
    name: str, value: bytes, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[Secret]:
    """Sets another value; deploy the functions that use it again, to replace what is kept.

    `etag`: change nothing if somebody else wrote in between.

    Raises InvalidArgumentError, NotFoundError, AbortedError (stale etag),
    FailedPreconditionError (the server's key for secrets is missing).
    """
    request = UpdateSecretRequest(
        name=name, value=value, etag=etag, request_id=new_request_id(request_id)
    )
    return unary(lambda s: s.secrets.UpdateSecret, request, lambda a: a.secret, timeout)


def delete_secret(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[None]:
    """Deletes a secret. Raises NotFoundError, AbortedError."""
    request = DeleteSecretRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.secrets.DeleteSecret, request, nothing, timeout)
