"""InstanceService over gRPC."""

from __future__ import annotations

import grpc
import pytest

from skybridge.faas.v1 import instance_service_pb2 as pb
from tests.api.served import Served

ID = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("ListInstances", pb.ListInstancesRequest(), grpc.StatusCode.OK),
        ("ListInstances", pb.ListInstancesRequest(function="hello"), grpc.StatusCode.OK),
        ("ListInstances", pb.ListInstancesRequest(parent="x"), grpc.StatusCode.INVALID_ARGUMENT),
        ("ListInstances", pb.ListInstancesRequest(function="!"), grpc.StatusCode.INVALID_ARGUMENT),
        ("ListInstances", pb.ListInstancesRequest(page_size=-1), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "ListInstances",
            pb.ListInstancesRequest(page_token="x"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ("GetInstance", pb.GetInstanceRequest(name=ID), grpc.StatusCode.NOT_FOUND),
        ("GetInstance", pb.GetInstanceRequest(name="x"), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetInstance", pb.GetInstanceRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (
            "StopInstance",
            pb.StopInstanceRequest(name=f"namespaces/default/instances/{ID}"),
            grpc.StatusCode.NOT_FOUND,
        ),
    ],
)
async def test_codes(served: Served, method: str, request_: object, code: grpc.StatusCode) -> None:
    found = grpc.StatusCode.OK
    try:
        await getattr(served.instances, method)(request_)
    except grpc.aio.AioRpcError as error:
        found = error.code()
    assert found is code
