"""Reflection v1 and v1alpha, which are the same on the wire, for grpcurl old and new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from skybridge_server.api.calls import Methods
from skybridge_server.api.descriptors import REFLECTION_V1, REFLECTION_V1ALPHA, describe

SERVICES = (f"{REFLECTION_V1}.ServerReflection", f"{REFLECTION_V1ALPHA}.ServerReflection")


class Symbols:
    """A descriptor pool that finds methods, too: grpcurl asks for them to describe one."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def add(methods: Methods, service_names: Sequence[str]) -> None:
    """Let methods describe these services, and reflection itself."""
    symbols = Symbols(describe(service_names))
    servicer = aio.ReflectionServicer((*service_names, *SERVICES), pool=symbols)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        ServerReflectionRequest.FromString,
        ServerReflectionResponse.SerializeToString,
    )
    for service in SERVICES:
        methods.add_registered_method_handlers(service, {"ServerReflectionInfo": handler})
