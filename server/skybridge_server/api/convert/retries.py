"""Retry policies."""

from __future__ import annotations

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api.convert.values import (
    duration_from_proto,
    fill_duration,
    optional_enum_from_proto,
)
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services.violations import Violations


def retry_policy_from_proto(
    spec: pb.FunctionSpec, default: RetryPolicy, prefix: str, wrong: Violations
) -> RetryPolicy:
    if not spec.HasField("retry_policy"):
        return default
    message = spec.retry_policy
    return RetryPolicy(
        max_attempts=message.max_attempts or default.max_attempts,
        initial_backoff=duration_from_proto(
            message, "initial_backoff", default.initial_backoff, prefix, wrong
        ),
        max_backoff=duration_from_proto(message, "max_backoff", default.max_backoff, prefix, wrong),
        backoff_coefficient=message.backoff_coefficient or default.backoff_coefficient,
        jitter=message.jitter if message.HasField("jitter") else default.jitter,
        max_age=duration_from_proto(message, "max_age", default.max_age, prefix, wrong),
        retry_on=_reasons(message, prefix, wrong) or default.retry_on,
        exit_codes=tuple(message.exit_codes),
        dead_letters=message.dead_letters,
    )


def _reasons(message: pb.RetryPolicy, prefix: str, wrong: Violations) -> tuple[FailureReason, ...]:
    reasons = []
    for index, number in enumerate(message.retry_on):
        field = f"{prefix}retry_on[{index}]"
        reason = optional_enum_from_proto(FailureReason, number, field, wrong)
        if reason is not None:
            reasons.append(reason)
        elif number == 0:
            wrong.add(field, "must be a kind of failure")
    return tuple(reasons)


def fill_retry_policy(message: pb.RetryPolicy, policy: RetryPolicy) -> None:
    message.max_attempts = policy.max_attempts
    fill_duration(message.initial_backoff, policy.initial_backoff)
    fill_duration(message.max_backoff, policy.max_backoff)
    message.backoff_coefficient = policy.backoff_coefficient
    message.jitter = policy.jitter
    fill_duration(message.max_age, policy.max_age)
    message.retry_on.extend(execution_pb2.FailureReason.ValueType(r) for r in policy.retry_on)
    message.exit_codes.extend(policy.exit_codes)
    message.dead_letters = policy.dead_letters
