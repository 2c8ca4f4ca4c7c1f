"""What the operator allows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from skybridge_server.models.functions import MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows. Sizes in bytes."""

    max_memory_bytes: int
    max_cpu_millis: int
    max_pids: int
    max_tmp_bytes: int
    max_output_bytes: int
    max_execution_timeout: timedelta
    max_concurrent_executions: int
    max_queued_executions: int
    max_instances: int
    instance_memory_bytes: int
    """Of all instances together."""
    instance_cpu_millis: int
    runtimes: tuple[str, ...]
    """Names of the runtimes; the first is the one of functions that ask for none."""
    max_input_bytes: int = 3 * MIB
    request_retention: timedelta = timedelta(days=1)
    """How long a request id is remembered, and so how late a due time may fire."""
    allowed_images: tuple[str, ...] = ()
    """Patterns, see `images.refusal`; empty allows every image."""
    require_digest: bool = False
    allow_root: bool = False
    allow_writable_root: bool = False
    allowed_oci_runtimes: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    """Patterns of hosts that destinations may be at; empty allows none."""
