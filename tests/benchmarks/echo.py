"""The floor: a bare grpc.aio server that parses a message of 1 KiB and gives it back."""

from __future__ import annotations

import sys

import grpc
import uvloop

from skybridge.faas.v1.execution_service_pb2 import StartExecutionRequest

METHOD = "/bench.Echo/Echo"


async def _echo(
    request: StartExecutionRequest,
    context: object,  # noqa: ARG001 - grpc's signature
) -> StartExecutionRequest:
    return request


async def _serve(address: str) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _echo,
        request_deserializer=StartExecutionRequest.FromString,
        response_serializer=StartExecutionRequest.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler})
    server.add_generic_rpc_handlers([service])
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def call(
    channel: grpc.aio.Channel,
) -> grpc.aio.UnaryUnaryMultiCallable[StartExecutionRequest, StartExecutionRequest]:
    """Return what calls the echo."""
    return channel.unary_unary(
        METHOD,
        request_serializer=StartExecutionRequest.SerializeToString,
        response_deserializer=StartExecutionRequest.FromString,
    )


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
