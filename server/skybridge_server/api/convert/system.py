"""The server, its limits and its runtimes."""

from __future__ import annotations

from datetime import timedelta

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server.api.convert.values import (
    duration_to_proto,
    optional_duration_from_proto,
)
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.services.engines import RuntimeStatus
from skybridge_server.services.limits import Limits
from skybridge_server.services.system import SystemInfo
from skybridge_server.services.violations import Violations

MAX_GRACE = timedelta(hours=24)

_POLICIES = {
    pb.SHUTDOWN_POLICY_CANCEL: ShutdownPolicy.CANCEL,
    pb.SHUTDOWN_POLICY_HANDOVER: ShutdownPolicy.HANDOVER,
}


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


def drain_grace(request: pb.DrainServerRequest, wrong: Violations) -> timedelta | None:
    """Return how long calls may go on; None: as configured."""
    grace = optional_duration_from_proto(request, "grace", "", wrong)
    if grace is not None and not timedelta(0) <= grace <= MAX_GRACE:
        wrong.add("grace", f"must be between 0 s and {MAX_GRACE.total_seconds():g} s")
    return grace


def shutdown_policy(request: pb.DrainServerRequest, wrong: Violations) -> ShutdownPolicy | None:
    """Return what becomes of executions that run longer; None: as configured."""
    if request.policy == pb.SHUTDOWN_POLICY_UNSPECIFIED:
        return None
    policy = _POLICIES.get(request.policy)
    if policy is None:
        wrong.add("policy", f"{request.policy} is not a value of this server's API")
    return policy
