"""InstanceService over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skybridge.faas.v1 import instance_service_pb2 as pb
from skybridge.faas.v1.instance_service_pb2_grpc import InstanceServiceServicer
from skybridge_server.api import names, paging
from skybridge_server.api.convert.instances import instance_to_proto
from skybridge_server.services.instances import InstanceService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.instance_service_pb2_grpc import _ServicerContext as Context


class InstanceServicer(InstanceServiceServicer):
    """Instances."""

    def __init__(self, instances: InstanceService) -> None:
        self._instances = instances

    async def ListInstances(
        self, request: pb.ListInstancesRequest, context: Context
    ) -> pb.ListInstancesResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            function = (
                names.function(request.function, "function", wrong, default=parent)
                if request.function
                else None
            )
            scope = ("ListInstances", parent, request.function)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = self._instances.list(parent, function, wanted)
        return pb.ListInstancesResponse(
            instances=[instance_to_proto(record, full=False) for record in page.items],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def GetInstance(
        self, request: pb.GetInstanceRequest, context: Context
    ) -> pb.GetInstanceResponse:
        with Violations() as wrong:
            name = names.instance(request.name, "name", wrong)
        return pb.GetInstanceResponse(instance=instance_to_proto(self._instances.get(name)))

    async def StopInstance(
        self, request: pb.StopInstanceRequest, context: Context
    ) -> pb.StopInstanceResponse:
        with Violations() as wrong:
            name = names.instance(request.name, "name", wrong)
        stopped = self._instances.stop(name, force=request.force)
        return pb.StopInstanceResponse(instance=instance_to_proto(stopped))
