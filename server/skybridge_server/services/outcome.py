"""The verdict: what an execution's end means."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from skybridge_server.errors import (
    ContainerGoneError,
    EntryPointError,
    ImageNotFoundError,
    InitError,
    InstanceError,
    ProtocolError,
    RuntimeUnavailableError,
    SkybridgeError,
    StartTimeoutError,
    StorageError,
)
from skybridge_server.models.executions import ExecutionState, Failure, FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.journal import GapReason, OutputStream
from skybridge_server.runtimes.base import Exit
from skybridge_server.services.hints import hint

_REASON_OF: tuple[tuple[type[SkybridgeError], FailureReason], ...] = (
    (RuntimeUnavailableError, FailureReason.RUNTIME_UNAVAILABLE),
    (ImageNotFoundError, FailureReason.IMAGE_UNAVAILABLE),
    (EntryPointError, FailureReason.ENTRY_POINT),
    (ContainerGoneError, FailureReason.CONTAINER_REMOVED),
    (StorageError, FailureReason.INTERNAL),
    (StartTimeoutError, FailureReason.START_TIMEOUT),
    (InitError, FailureReason.INIT_ERROR),
    (ProtocolError, FailureReason.PROTOCOL_ERROR),
    (InstanceError, FailureReason.INSTANCE_DIED),
)
"""What an engine or an instance did to us, and what that is to an execution. The first match
counts; anything else: START_FAILED."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended."""

    failure: Failure | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    gap: GapReason | None = None
    """Why output broke off before its end, if it did."""
    gap_in: frozenset[OutputStream] = frozenset(OutputStream)
    """The streams that did."""

    @property
    def state(self) -> ExecutionState:
        return self.failure.reason.state if self.failure else ExecutionState.SUCCEEDED


def failed(reason: FailureReason, message: str) -> Outcome:
    return Outcome(Failure(reason, message))


def of_error(error: SkybridgeError) -> Outcome:
    """Judge an execution that the engine could not start."""
    for error_class, reason in _REASON_OF:
        if isinstance(error, error_class):
            return failed(reason, error.message)
    return failed(FailureReason.START_FAILED, error.message)


def of_lost_engine(error: SkybridgeError) -> Outcome:
    """Judge an execution whose engine went away while it ran: nobody saw its end."""
    failure = Failure(
        FailureReason.RUNTIME_UNAVAILABLE,
        f"the container engine went away while the function ran: {error.message}",
    )
    return Outcome(failure, gap=GapReason.RUNTIME_UNAVAILABLE)


def of_lost(
    message: str, ended: Exit | None = None, reason: FailureReason = FailureReason.LOST
) -> Outcome:
    """Judge an execution of which we cannot know what it did, or wrote."""
    code = ended.code if ended else None
    return Outcome(Failure(reason, message), exit_code=code, gap=GapReason.RUNTIME_UNAVAILABLE)


def of_unkillable() -> Outcome:
    """Judge an execution whose container would not end: nobody saw its end."""
    failure = Failure(
        FailureReason.RUNTIME_UNAVAILABLE, "the container engine did not end the container in time"
    )
    return Outcome(failure, gap=GapReason.RUNTIME_UNAVAILABLE)


def of_lost_output(error: StorageError, gap: GapReason | None = None) -> Outcome:
    """Judge an execution whose events the store refused; `gap` if the rest was not even read."""
    failure = Failure(
        FailureReason.INTERNAL, f"what the function did could not be stored: {error.message}"
    )
    return Outcome(failure, gap=gap)


def of_exit(
    ended: Exit, spec: FunctionSpec, *, written: int, log_tail: bytes, truncated: bool
) -> Outcome:
    """Judge an execution whose process ended by itself, having `written` bytes to stdout."""
    failure = _failure(ended, spec, log_tail)
    if failure is None and truncated:
        failure = _output_limit(spec, written)
    return Outcome(failure, exit_code=ended.code, oom_killed=ended.oom_killed)


def of_answer(
    failure: Failure | None, spec: FunctionSpec, *, written: int, truncated: bool
) -> Outcome:
    """Judge an execution that an instance has answered."""
    if failure is None and truncated:
        failure = _output_limit(spec, written)
    return Outcome(failure)


def of_dead_instance(
    error: InstanceError, ended: Exit | None, spec: FunctionSpec, *, log_tail: bytes
) -> Outcome:
    """Judge an execution whose instance ended, or broke the contract, before its answer."""
    if ended is None:
        return of_error(error)
    failure = _failure(ended, spec, log_tail)
    if failure is None:
        failure = Failure(FailureReason.INSTANCE_DIED, "the instance exited before its answer")
    return Outcome(failure, exit_code=ended.code, oom_killed=ended.oom_killed)


def _output_limit(spec: FunctionSpec, written: int) -> Failure:
    return Failure(
        FailureReason.OUTPUT_LIMIT,
        f"the function wrote {written} bytes to stdout and only the first "
        f"{spec.resources.output_bytes} were kept: raise spec.resources.output_bytes",
    )


def _failure(ended: Exit, spec: FunctionSpec, log_tail: bytes) -> Failure | None:
    if ended.code == 0:
        return None
    number = _signal_number(ended.code)
    if ended.oom_killed:
        return Failure(
            FailureReason.OUT_OF_MEMORY,
            f"a process of the function needed more than {spec.resources.memory_bytes} bytes of "
            f"memory and was killed (exit code {ended.code}): raise spec.resources.memory_bytes; "
            "what it keeps in /tmp counts too",
            signal=number,
        )
    advice = hint(spec, log_tail)
    ending = f"; {advice}" if advice else ""
    if number:
        name = signal.Signals(number).name
        return Failure(
            FailureReason.SIGNAL,
            f"{name} ended the function (exit code {ended.code}), not sent by Skybridge{ending}",
            signal=number,
        )
    return Failure(FailureReason.EXIT_CODE, f"exit code {ended.code}{ending}")


def _signal_number(code: int) -> int:
    """Return n for the exit code 128 + n, as engines and shells report signal n; else 0."""
    number = code - 128
    return number if number in set(signal.Signals) and number <= 31 else 0
