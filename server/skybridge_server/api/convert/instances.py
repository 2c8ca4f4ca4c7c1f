"""Instances."""

from __future__ import annotations

from skybridge.faas.v1 import instance_pb2 as pb
from skybridge_server.api.convert.values import (
    optional_duration_to_proto,
    optional_timestamp_to_proto,
    timestamp_to_proto,
)
from skybridge_server.models.instances import InstanceRecord


def instance_to_proto(record: InstanceRecord, *, full: bool = True) -> pb.Instance:
    """Return an instance; with the end of what it wrote unless not `full`."""
    return pb.Instance(
        name=str(record.name),
        function=str(record.revision.function),
        revision=str(record.revision),
        state=pb.InstanceState.ValueType(record.state),
        container=record.container_id,
        running=record.running,
        executions=record.executions,
        create_time=timestamp_to_proto(record.create_time),
        init=optional_duration_to_proto(record.init),
        last_used_time=optional_timestamp_to_proto(record.last_used_time),
        log_tail=record.log_tail if full else b"",
    )
