"""The server, its limits and its runtimes."""

from __future__ import annotations

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server.api.convert.values import duration_to_proto
from skybridge_server.services.engines import RuntimeStatus
from skybridge_server.services.limits import Limits
from skybridge_server.services.system import SystemInfo


def system_info_to_proto(info: SystemInfo) -> pb.GetSystemInfoResponse:
    return pb.GetSystemInfoResponse(
        version=info.version,
        server_id=info.server_id,
        uptime=duration_to_proto(info.uptime),
        limits=_limits_to_proto(info.limits),
        contracts=[function_pb2.ContractKind.ValueType(kind) for kind in info.contracts],
        default_runtime=info.default_runtime,
        running_executions=info.running_executions,
        queued_executions=info.queued_executions,
    )


def _limits_to_proto(limits: Limits) -> pb.Limits:
    return pb.Limits(
        max_concurrent_executions=limits.max_concurrent_executions,
        max_queued_executions=limits.max_queued_executions,
        max_input_bytes=limits.max_input_bytes,
        max_memory_bytes=limits.max_memory_bytes,
        max_cpu_millis=limits.max_cpu_millis,
        max_pids=limits.max_pids,
        max_tmp_bytes=limits.max_tmp_bytes,
        max_output_bytes=limits.max_output_bytes,
        max_execution_timeout=duration_to_proto(limits.max_execution_timeout),
        allowed_images=limits.allowed_images,
        require_digest=limits.require_digest,
    )


def runtime_to_proto(status: RuntimeStatus) -> pb.Runtime:
    state = pb.RUNTIME_STATE_READY if status.ready else pb.RUNTIME_STATE_UNAVAILABLE
    message = pb.Runtime(
        name=status.name, default=status.default, state=state, state_message=status.message
    )
    if status.info is not None:
        message.engine = status.info.engine
        message.api_version = status.info.api_version
        message.platform = status.info.platform
        message.cgroup_version = status.info.cgroup_version
        message.oci_runtimes.extend(status.info.oci_runtimes)
        message.unsupported_limits.extend(status.info.unsupported_limits)
    return message
