"""Describes the services to callers: our own, and two standards newer than their packages.

grpc.health.v1 has a method `List` that grpcio-health-checking does not ship, and
grpcio-reflection ships v1alpha only. Both are made here, in a pool of our own, from what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MessageOptions
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

# A FileDescriptor; the stubs have two classes of that name.
File = Any

REFLECTION_V1ALPHA = "grpc.reflection.v1alpha"
REFLECTION_V1 = "grpc.reflection.v1"


def describe(service_names: Iterable[str]) -> descriptor_pool.DescriptorPool:
    """Return a pool with the files of the named services, health, reflection and error details."""
    pool = descriptor_pool.DescriptorPool()
    known = descriptor_pool.Default()
    files = {file.name: file for file in (health_file(), reflection_v1_file())}
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR):
        _collect(file, files)
    for name in service_names:
        _collect(known.FindFileContainingSymbol(name), files)
    for proto in files.values():
        pool.AddSerializedFile(proto.SerializeToString())
    return pool


def _collect(file: File, files: dict[str, FileDescriptorProto]) -> None:
    """Add a file after those that it imports."""
    for dependency in file.dependencies:
        _collect(dependency, files)
    files.setdefault(file.name, _proto_of(file))


def _proto_of(file: File) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def reflection_v1_file() -> FileDescriptorProto:
    """Return v1 of reflection: v1alpha under another name, the same on the wire."""
    text = text_format.MessageToString(_proto_of(reflection_pb2.DESCRIPTOR))
    text = text.replace("reflection/v1alpha", "reflection/v1").replace(
        REFLECTION_V1ALPHA, REFLECTION_V1
    )
    return text_format.Parse(text, FileDescriptorProto())


def health_file() -> FileDescriptorProto:
    """Return grpc.health.v1 with `List` (gRFC A90)."""
    file = _proto_of(health_pb2.DESCRIPTOR)
    if any(message.name == "HealthListRequest" for message in file.message_type):
        return file
    file.message_type.add(name="HealthListRequest")
    response = file.message_type.add(name="HealthListResponse")
    entry = response.nested_type.add(name="StatusesEntry", options=MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=Field.TYPE_MESSAGE,
        label=Field.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse",
    )
    response.field.add(
        name="statuses",
        number=1,
        type=Field.TYPE_MESSAGE,
        label=Field.LABEL_REPEATED,
        type_name=".grpc.health.v1.HealthListResponse.StatusesEntry",
    )
    file.service[0].method.add(
        name="List",
        input_type=".grpc.health.v1.HealthListRequest",
        output_type=".grpc.health.v1.HealthListResponse",
    )
    return file


def health_list_messages() -> tuple[type[Message], type[Message]]:
    """Return the classes of HealthListRequest and HealthListResponse."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(health_file().SerializeToString())
    names = ("grpc.health.v1.HealthListRequest", "grpc.health.v1.HealthListResponse")
    request, response = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    )
    return request, response
