"""SecretService over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from skybridge.faas.v1 import secret_pb2
from skybridge.faas.v1 import secret_service_pb2 as pb
from skybridge.faas.v1.secret_service_pb2_grpc import SecretServiceServicer
from skybridge_server.api import names, paging
from skybridge_server.api.convert.values import timestamp_to_proto
from skybridge_server.api.requests import request_key
from skybridge_server.models.secrets import MAX_SECRET_BYTES, Secret
from skybridge_server.services.requests import RequestKey
from skybridge_server.services.secrets import SecretService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.secret_service_pb2_grpc import _ServicerContext as Context

Setting = TypeVar("Setting", pb.CreateSecretRequest, pb.UpdateSecretRequest)


class SecretServicer(SecretServiceServicer):
    """Secrets."""

    def __init__(self, secrets: SecretService) -> None:
        self._secrets = secrets

    async def CreateSecret(
        self, request: pb.CreateSecretRequest, context: Context
    ) -> pb.CreateSecretResponse:
        with Violations() as wrong:
            name = names.new_secret(request.parent, request.secret_id, wrong)
            _check_value(request.value, wrong)
            request_key("CreateSecret", request, request.request_id, wrong)
        await self._secrets.make_key()
        key = await self._key("CreateSecret", request)
        secret = await self._secrets.create(name, request.value, key=key)
        return pb.CreateSecretResponse(secret=_to_proto(secret))

    async def GetSecret(
        self, request: pb.GetSecretRequest, context: Context
    ) -> pb.GetSecretResponse:
        with Violations() as wrong:
            name = names.secret(request.name, "name", wrong)
        return pb.GetSecretResponse(secret=_to_proto(await self._secrets.get(name)))

    async def ListSecrets(
        self, request: pb.ListSecretsRequest, context: Context
    ) -> pb.ListSecretsResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            scope = ("ListSecrets", parent)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = await self._secrets.list(parent, wanted)
        return pb.ListSecretsResponse(
            secrets=map(_to_proto, page.items), next_page_token=paging.next_page_token(page, scope)
        )

    async def UpdateSecret(
        self, request: pb.UpdateSecretRequest, context: Context
    ) -> pb.UpdateSecretResponse:
        with Violations() as wrong:
            name = names.secret(request.name, "name", wrong)
            _check_value(request.value, wrong)
            request_key("UpdateSecret", request, request.request_id, wrong)
        await self._secrets.get(name)
        key = await self._key("UpdateSecret", request)
        secret = await self._secrets.update(name, request.value, etag=request.etag, key=key)
        return pb.UpdateSecretResponse(secret=_to_proto(secret))

    async def DeleteSecret(
        self, request: pb.DeleteSecretRequest, context: Context
    ) -> pb.DeleteSecretResponse:
        with Violations() as wrong:
            name = names.secret(request.name, "name", wrong)
            key = request_key("DeleteSecret", request, request.request_id, wrong)
        await self._secrets.delete(name, etag=request.etag, key=key)
        return pb.DeleteSecretResponse()

    async def _key(self, method: str, request: Setting) -> RequestKey | None:
        """Return the key of a request that is right, in which nothing helps to guess the value."""
        if not request.request_id:
            return None
        asked = type(request)()
        asked.CopyFrom(request)
        asked.value = await self._secrets.mark(request.value)
        return request_key(method, asked, request.request_id, Violations())


def _check_value(value: bytes, wrong: Violations) -> None:
    if not value:
        wrong.add("value", "is required")
    elif len(value) > MAX_SECRET_BYTES:
        wrong.add("value", f"must have at most {MAX_SECRET_BYTES} bytes, has {len(value)}")


def _to_proto(secret: Secret) -> secret_pb2.Secret:
    return secret_pb2.Secret(
        name=str(secret.name),
        value_bytes=secret.value_bytes,
        etag=secret.etag,
        create_time=timestamp_to_proto(secret.create_time),
        update_time=timestamp_to_proto(secret.update_time),
    )
