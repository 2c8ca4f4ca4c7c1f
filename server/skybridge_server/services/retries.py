"""Whether a failed execution is tried again, and when.

A caller who waits is told of the failure, and knows best whether to repeat. Who does not wait has
the server repeat, as the function's retry policy says.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

from skybridge_server.models.aftermath import NOTHING, Aftermath
from skybridge_server.models.destinations import NOBODY, Delivery, Destination
from skybridge_server.models.executions import (
    NO_ENVELOPE,
    Attempt,
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
    Usage,
)
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import new_id
from skybridge_server.models.retries import WANTED, RetryPolicy
from skybridge_server.services.clock import Clock


class Retries:
    """Decides about further attempts, and what follows from an end that is for good."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def next_attempt(self, ended: Execution, policy: RetryPolicy) -> Execution | None:
        """Return how a failed execution waits for its next attempt; None if it has none."""
        pause = backoff(ended, policy)
        if pause is None:
            return None
        return replace(
            ended,
            state=ExecutionState.QUEUED,
            attempt=ended.attempt + 1,
            not_before=self._clock.now() + pause,
            position=None,
            failure=None,
            exit_code=None,
            stdout_bytes=0,
            stderr_bytes=0,
            cold_start=False,
            timings=Timings(),
            usage=Usage(),
            start_time=None,
            end_time=None,
            instance="",
            answered=NO_ENVELOPE,
        )

    def aftermath(self, ended: Execution, spec: FunctionSpec) -> Aftermath:
        """Return what follows from an end that is for good."""
        if not ended.background:
            return NOTHING
        if ended.failure is None:
            return Aftermath(delivery=self._delivery(ended, spec.destinations.on_success))
        if ended.failure.reason in WANTED:
            return NOTHING
        return Aftermath(
            dead_letter=is_dead_letter(ended, spec),
            delivery=self._delivery(ended, spec.destinations.on_failure),
        )

    def _delivery(self, ended: Execution, destination: Destination) -> Delivery | None:
        if destination == NOBODY:
            return None
        now = self._clock.now()
        return Delivery(new_id(), ended.name, destination, create_time=now, next_time=now)


def is_dead_letter(ended: Execution, spec: FunctionSpec) -> bool:
    """Tell whether an execution that failed for good is kept until somebody deals with it."""
    failed = ended.failure is not None and ended.failure.reason not in WANTED
    return failed and ended.background and spec.retry_policy.dead_letters


def backoff(ended: Execution, policy: RetryPolicy) -> timedelta | None:
    """Return how long an execution that has ended waits for its next attempt; None: for ever."""
    if not ended.background or ended.failure is None or ended.end_time is None:
        return None
    if ended.attempt >= policy.max_attempts or not _retried(ended.failure, ended, policy):
        return None
    pause = _pause(ended, policy)
    too_late = ended.end_time + pause > ended.ready_time + policy.max_age
    return None if too_late else pause


def attempt_of(ended: Execution) -> Attempt:
    """Return the record of an attempt from the execution as it ended."""
    if ended.failure is None or ended.end_time is None:
        raise AssertionError("an attempt that did not fail is the last")
    return Attempt(
        number=ended.attempt,
        failure=ended.failure,
        exit_code=ended.exit_code,
        stdout_bytes=ended.stdout_bytes,
        stderr_bytes=ended.stderr_bytes,
        last_sequence=ended.last_sequence,
        cold_start=ended.cold_start,
        timings=ended.timings,
        usage=ended.usage,
        start_time=ended.start_time,
        end_time=ended.end_time,
    )


def _retried(failure: Failure, ended: Execution, policy: RetryPolicy) -> bool:
    if failure.reason in WANTED or failure.reason not in policy.retry_on:
        return False
    if failure.reason is FailureReason.EXIT_CODE and policy.exit_codes:
        return ended.exit_code in policy.exit_codes
    return True


def _pause(ended: Execution, policy: RetryPolicy) -> timedelta:
    longest = policy.max_backoff.total_seconds()
    try:
        grown = policy.backoff_coefficient ** (ended.attempt - 1)
        seconds = min(policy.initial_backoff.total_seconds() * grown, longest)
    except OverflowError:
        seconds = longest
    return timedelta(seconds=seconds * (1 - policy.jitter * _chance(ended)))


def _chance(ended: Execution) -> float:
    """Return a number in [0, 1), the same for the same attempt whenever it is asked for."""
    text = f"{ended.name.execution} {ended.attempt}"
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return number / 2**64
