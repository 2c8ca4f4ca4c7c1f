"""The rpcs that there are, read from the API's own description."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from skybridge.faas.v1 import (
    dead_letter_service_pb2,
    execution_service_pb2,
    function_service_pb2,
    instance_service_pb2,
    metrics_service_pb2,
    schedule_service_pb2,
    secret_service_pb2,
    system_service_pb2,
    token_service_pb2,
)

_FILES = (
    function_service_pb2,
    execution_service_pb2,
    instance_service_pb2,
    metrics_service_pb2,
    dead_letter_service_pb2,
    schedule_service_pb2,
    secret_service_pb2,
    system_service_pb2,
    token_service_pb2,
)


def services() -> Iterator[ServiceDescriptor]:
    """Yield our services."""
    for file in _FILES:
        yield from file.DESCRIPTOR.services_by_name.values()


def rpcs() -> Iterator[MethodDescriptor]:
    """Yield all rpcs of our services."""
    for service in services():
        yield from service.methods
