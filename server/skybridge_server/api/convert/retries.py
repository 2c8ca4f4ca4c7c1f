"""Retry policies."""

from __future__ import annotations

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api.convert.values import (
    duration_from_proto,
    duration_to_proto,
    optional_enum_from_proto,
)
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services.violations import Violations


def retry_policy_from_proto(
    message: pb.RetryPolicy, default: RetryPolicy, prefix: str, wrong: Violations
) -> RetryPolicy:
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


def retry_policy_to_proto(policy: RetryPolicy) -> pb.RetryPolicy:
    return pb.RetryPolicy(
        max_attempts=policy.max_attempts,
        initial_backoff=duration_to_proto(policy.initial_backoff),
        max_backoff=duration_to_proto(policy.max_backoff),
        backoff_coefficient=policy.backoff_coefficient,
        jitter=policy.jitter,
        max_age=duration_to_proto(policy.max_age),
        retry_on=[execution_pb2.FailureReason.ValueType(reason) for reason in policy.retry_on],
        exit_codes=policy.exit_codes,
        dead_letters=policy.dead_letters,
    )
