"""TokenService over gRPC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skybridge.faas.v1 import token_service_pb2 as pb
from skybridge.faas.v1.token_service_pb2_grpc import TokenServiceServicer
from skybridge_server.api import access, names, paging
from skybridge_server.api.convert.tokens import draft_from_proto, token_to_proto
from skybridge_server.services.tokens import TokenService, check_draft
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.token_service_pb2_grpc import _ServicerContext as Context

_SCOPE = ("ListTokens",)


class TokenServicer(TokenServiceServicer):
    """Tokens."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        with Violations() as wrong:
            name = names.new_token(request.token_id, wrong)
            draft = draft_from_proto(request.token, wrong)
            check_draft(draft, datetime.now(UTC), wrong)
        token, secret = await self._tokens.create(name, draft)
        return pb.CreateTokenResponse(token=token_to_proto(token), secret=secret)

    async def GetToken(self, request: pb.GetTokenRequest, context: Context) -> pb.GetTokenResponse:
        with Violations() as wrong:
            name = names.token(request.name, "name", wrong)
        return pb.GetTokenResponse(token=token_to_proto(self._tokens.get(name)))

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        with Violations() as wrong:
            wanted = paging.page_request(request.page_size, request.page_token, _SCOPE, wrong)
        page = self._tokens.list(wanted)
        return pb.ListTokensResponse(
            tokens=map(token_to_proto, page.items),
            next_page_token=paging.next_page_token(page, _SCOPE),
        )

    async def DeleteToken(
        self, request: pb.DeleteTokenRequest, context: Context
    ) -> pb.DeleteTokenResponse:
        with Violations() as wrong:
            name = names.token(request.name, "name", wrong)
        await self._tokens.delete(name)
        return pb.DeleteTokenResponse()

    async def GetCaller(
        self, request: pb.GetCallerRequest, context: Context
    ) -> pb.GetCallerResponse:
        return pb.GetCallerResponse(
            token=token_to_proto(access.caller()), token_required=self._tokens.required
        )
