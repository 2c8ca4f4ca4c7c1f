"""What the operator of the tests allows."""

from __future__ import annotations

from datetime import timedelta

from skybridge_server.models.functions import MIB
from skybridge_server.services.limits import Limits

LIMITS = Limits(
    max_memory_bytes=1024 * MIB,
    max_cpu_millis=4000,
    max_pids=1024,
    max_tmp_bytes=256 * MIB,
    max_output_bytes=1024 * MIB,
    max_execution_timeout=timedelta(hours=2),
    max_concurrent_executions=4,
    max_queued_executions=100,
    max_instances=10,
    instance_memory_bytes=4096 * MIB,
    instance_cpu_millis=40_000,
    runtimes=("docker", "other"),
)
