"""Reflection v1 and v1alpha, which are the same on the wire, for grpcurl old and new."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from skybridge_server.api.descriptors import REFLECTION_V1, REFLECTION_V1ALPHA, describe

SERVICES = (f"{REFLECTION_V1}.ServerReflection", f"{REFLECTION_V1ALPHA}.ServerReflection")


def handlers(
    service_names: Iterable[str],
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Return the handlers of either version, which describe the services."""
    names = tuple(service_names)
    servicer = aio.ReflectionServicer((*names, *SERVICES), pool=describe(names))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    return {"ServerReflectionInfo": handler}
