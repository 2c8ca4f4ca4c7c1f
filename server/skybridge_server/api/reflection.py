"""Reflection v1 and v1alpha, which are the same on the wire, for grpcurl old and new."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from skybridge_server.api.descriptors import REFLECTION_V1, REFLECTION_V1ALPHA, describe

SERVICES = (f"{REFLECTION_V1}.ServerReflection", f"{REFLECTION_V1ALPHA}.ServerReflection")


def add(server: grpc.aio.Server, service_names: Sequence[str]) -> None:
    """Let a server describe these services, and reflection itself."""
    servicer = aio.ReflectionServicer((*service_names, *SERVICES), pool=describe(service_names))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    for service in SERVICES:
        handlers = {"ServerReflectionInfo": handler}
        generic = grpc.method_handlers_generic_handler(service, handlers)
        server.add_generic_rpc_handlers([generic])
