"""FunctionService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as pb
from skybridge.faas.v1.function_service_pb2_grpc import FunctionServiceServicer
from skybridge_server.api import access, filters, masks, names, paging
from skybridge_server.api.convert.deployments import credentials_from_proto, deployment_to_proto
from skybridge_server.api.convert.functions import (
    draft_from_proto,
    function_to_proto,
    revision_to_proto,
)
from skybridge_server.api.requests import request_key
from skybridge_server.models.functions import Function, Revision
from skybridge_server.services import rules
from skybridge_server.services.deployments import DeploymentService
from skybridge_server.services.functions import FunctionService
from skybridge_server.services.limits import Limits
from skybridge_server.services.requests import FunctionDraft
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.function_service_pb2_grpc import _ServicerContext as Context


class FunctionServicer(FunctionServiceServicer):
    """Functions, their deployments and revisions."""

    def __init__(
        self, functions: FunctionService, deployments: DeploymentService, limits: Limits
    ) -> None:
        self._functions = functions
        self._deployments = deployments
        self._limits = limits
        self._defaults = rules.default_spec(limits)

    async def CreateFunction(
        self, request: pb.CreateFunctionRequest, context: Context
    ) -> pb.CreateFunctionResponse:
        with Violations() as wrong:
            name = names.new_function(request.parent, request.function_id, wrong)
            draft = self._draft(request.function, wrong)
            key = request_key("CreateFunction", request, request.request_id, wrong)
        function = await self._functions.create(
            name, draft, key=key, validate_only=request.validate_only
        )
        return pb.CreateFunctionResponse(function=function_to_proto(function))

    async def GetFunction(
        self, request: pb.GetFunctionRequest, context: Context
    ) -> pb.GetFunctionResponse:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
        function = await self._functions.get(name)
        return pb.GetFunctionResponse(function=function_to_proto(function))

    async def ListFunctions(
        self, request: pb.ListFunctionsRequest, context: Context
    ) -> pb.ListFunctionsResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            query = filters.function_query(parent, request.filter, request.order_by, wrong)
            scope = ("ListFunctions", parent, request.filter, request.order_by)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = await self._functions.list(query, wanted)
        return pb.ListFunctionsResponse(
            functions=[function_to_proto(function) for function in page.items],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def UpdateFunction(
        self, request: pb.UpdateFunctionRequest, context: Context
    ) -> pb.UpdateFunctionResponse:
        with Violations() as wrong:
            name = names.function(request.function.name, "function.name", wrong)
            paths = masks.FUNCTION.paths(request.update_mask.paths, request.function, wrong)
            draft = self._changes(request.function, paths, wrong)
            key = request_key("UpdateFunction", request, request.request_id, wrong)

        def apply(current: Function) -> FunctionDraft:
            written = FunctionDraft(current.spec, current.description, current.labels)
            return masks.FUNCTION.merge(written, draft, paths)

        function = await self._functions.update(
            name, apply, etag=request.etag, key=key, validate_only=request.validate_only
        )
        return pb.UpdateFunctionResponse(function=function_to_proto(function))

    async def DeleteFunction(
        self, request: pb.DeleteFunctionRequest, context: Context
    ) -> pb.DeleteFunctionResponse:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
            key = request_key("DeleteFunction", request, request.request_id, wrong)
        await self._functions.delete(name, etag=request.etag, force=request.force, key=key)
        return pb.DeleteFunctionResponse()

    async def DeployFunction(
        self, request: pb.DeployFunctionRequest, context: Context
    ) -> AsyncIterator[pb.DeployFunctionResponse]:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
            credentials = credentials_from_proto(request.registry_credentials, wrong)
            key = request_key("DeployFunction", request, request.request_id, wrong)
        steps = self._deployments.deploy(name, etag=request.etag, credentials=credentials, key=key)
        async with aclosing(steps):
            async for step in steps:
                yield deployment_to_proto(step)

    async def GetRevision(
        self, request: pb.GetRevisionRequest, context: Context
    ) -> pb.GetRevisionResponse:
        with Violations() as wrong:
            name = names.revision(request.name, "name", wrong)
        revision = await self._deployments.get_revision(name)
        function = await self._functions.get(name.function)
        active = function.active_revision == name.number
        return pb.GetRevisionResponse(revision=revision_to_proto(revision, active=active))

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: Context
    ) -> pb.ListRevisionsResponse:
        with Violations() as wrong:
            parent = names.function(request.parent, "parent", wrong)
            scope = ("ListRevisions", str(parent))
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        function = await self._functions.get(parent)
        page = await self._deployments.list_revisions(parent, wanted)
        return pb.ListRevisionsResponse(
            revisions=[
                revision_to_proto(revision, active=revision.name.number == function.active_revision)
                for revision in page.items
            ],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def RollbackFunction(
        self, request: pb.RollbackFunctionRequest, context: Context
    ) -> pb.RollbackFunctionResponse:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
            if request.revision < 0:
                wrong.add("revision", "must be the number of a revision, or 0")
            key = request_key("RollbackFunction", request, request.request_id, wrong)
        function = await self._deployments.rollback(
            name, request.revision, etag=request.etag, key=key, check=_check_destinations
        )
        return pb.RollbackFunctionResponse(function=function_to_proto(function))

    async def DisableFunction(
        self, request: pb.DisableFunctionRequest, context: Context
    ) -> pb.DisableFunctionResponse:
        function = await self._set_enabled("DisableFunction", request, enabled=False)
        return pb.DisableFunctionResponse(function=function)

    async def EnableFunction(
        self, request: pb.EnableFunctionRequest, context: Context
    ) -> pb.EnableFunctionResponse:
        function = await self._set_enabled("EnableFunction", request, enabled=True)
        return pb.EnableFunctionResponse(function=function)

    async def _set_enabled(
        self,
        method: str,
        request: pb.DisableFunctionRequest | pb.EnableFunctionRequest,
        *,
        enabled: bool,
    ) -> function_pb2.Function:
        with Violations() as wrong:
            name = names.function(request.name, "name", wrong)
            key = request_key(method, request, request.request_id, wrong)
        function = await self._functions.set_enabled(name, enabled, etag=request.etag, key=key)
        return function_to_proto(function)

    def _draft(self, message: function_pb2.Function, wrong: Violations) -> FunctionDraft:
        draft = draft_from_proto(message, self._defaults, wrong)
        rules.check_draft(draft, self._limits, wrong, usual=self._defaults)
        return draft

    def _changes(
        self, message: function_pb2.Function, paths: frozenset[str], wrong: Violations
    ) -> FunctionDraft:
        """Return a draft of which only the fields at `paths` count, and only those are checked."""
        found = Violations()
        draft = self._draft(message, found)
        masks.FUNCTION.concerned(paths, found, wrong)
        return draft


def _check_destinations(revision: Revision) -> None:
    """Check that the caller may set what a revision brings back. PermissionDeniedError."""
    destinations = revision.spec.destinations
    for destination in (destinations.on_success, destinations.on_failure):
        if "/" in destination.function:
            access.check_name(destination.function)
