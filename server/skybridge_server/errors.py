"""What can go wrong, in the domain's words. `api/errors.py` gives each class its gRPC status.

A class says what the caller can do about it; `reason` is the stable, machine-readable word for
what exactly happened (google.rpc.ErrorInfo.reason), and `metadata` holds the facts of the message.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path as in the proto, and what is wrong with it."""

    field: str
    description: str


class SkybridgeError(Exception):
    """Base of all errors that a caller may see; the message is written for that caller."""

    reason = "INTERNAL"

    def __init__(
        self, message: str, *, reason: str | None = None, metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = metadata or {}


class InvalidArgumentError(SkybridgeError):
    """The request can never work; every wrong field is named."""

    reason = "INVALID_FIELDS"

    def __init__(self, *violations: FieldViolation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


class NotFoundError(SkybridgeError):
    """There is no such resource."""

    reason = "NOT_FOUND"

    def __init__(self, resource_type: str, resource_name: str, hint: str = "") -> None:
        super().__init__(
            f"{resource_type} '{resource_name}' does not exist{hint and '; ' + hint}",
            metadata={"resource": resource_name},
        )
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExistsError(SkybridgeError):
    """The name is taken, or the request id was used for another request."""

    reason = "ALREADY_EXISTS"


class FailedPreconditionError(SkybridgeError):
    """The system is not in the state that the request needs; the message says the way out."""

    reason = "FAILED_PRECONDITION"


class AbortedError(SkybridgeError):
    """Somebody else wrote in between: read again, then repeat."""

    reason = "ETAG_MISMATCH"


class OutOfRangeError(SkybridgeError):
    """A position is past the end."""

    reason = "OUT_OF_RANGE"


class ResourceExhaustedError(SkybridgeError):
    """A limit is reached; come back after `retry_after`."""

    reason = "QUEUE_FULL"

    def __init__(self, message: str, *, subject: str, retry_after: timedelta, reason: str) -> None:
        super().__init__(message, reason=reason, metadata={"subject": subject})
        self.subject = subject
        self.retry_after = retry_after


class UnauthenticatedError(SkybridgeError):
    """Nobody knows who calls."""

    reason = "TOKEN_REQUIRED"


class PermissionDeniedError(SkybridgeError):
    """The caller is known, and may not do this."""

    reason = "ROLE_INSUFFICIENT"


class UnavailableError(SkybridgeError):
    """Cannot be served now; a repeat may work."""

    reason = "UNAVAILABLE"


class DeadlineExceededError(SkybridgeError):
    """The caller's deadline passed before the answer was there."""

    reason = "DEADLINE_EXCEEDED"


class StorageError(UnavailableError):
    """The database cannot be written or read now: disk full, locked, broken."""

    reason = "STORAGE_UNAVAILABLE"


class StorageFullError(StorageError):
    """There is no room for more: the disk is full, or the database has its largest size."""

    reason = "STORAGE_FULL"


class LeaseLostError(StorageError):
    """Another process runs the execution by now, or it has ended: what we know of it is history."""

    reason = "LEASE_LOST"


# What a container engine can do to us. Deployments show these to the caller as they are;
# executions turn them into a failure of the execution.


class RuntimeUnavailableError(UnavailableError):
    """The container engine does not answer."""

    reason = "RUNTIME_UNAVAILABLE"


class RegistryUnavailableError(UnavailableError):
    """The image's registry does not answer."""

    reason = "REGISTRY_UNAVAILABLE"


class ImageNotFoundError(FailedPreconditionError):
    """Neither the engine nor the registry has the image."""

    reason = "IMAGE_NOT_FOUND"


class ImageAccessDeniedError(FailedPreconditionError):
    """The registry refuses the credentials, or wants some."""

    reason = "IMAGE_ACCESS_DENIED"


class EntryPointError(FailedPreconditionError):
    """The image has no such command, or it cannot be executed."""

    reason = "ENTRY_POINT"


class ContainerStartError(FailedPreconditionError):
    """The engine refuses to create or start the container."""

    reason = "START_FAILED"


class StartTimeoutError(ContainerStartError):
    """What was started was not ready in time."""

    reason = "START_TIMEOUT"


class StaleContainerError(ContainerStartError):
    """What the container was to join is gone: remove it, and create it anew."""


class PauseUnsupportedError(FailedPreconditionError):
    """The engine cannot pause containers on its host."""

    reason = "PAUSE_UNSUPPORTED"


class OutputLostError(SkybridgeError):
    """What a container wrote cannot be had from the engine any more, or not all of it."""

    reason = "OUTPUT_LOST"


class ContainerGoneError(NotFoundError):
    """The container does not exist any more."""

    reason = "CONTAINER_REMOVED"

    def __init__(self, container_id: str) -> None:
        super().__init__("container", container_id)


# What an instance can do to us; executions turn these into a failure of the execution, and the
# instance is retired.


class InstanceError(UnavailableError):
    """The instance is of no use any more."""

    reason = "INSTANCE_DIED"


class InstanceGoneError(InstanceError):
    """The instance closed the connection, or died, before its answer was whole."""


class InitError(InstanceError):
    """The function's code could not be initialised: no instance of it will take calls."""

    reason = "INIT_ERROR"


class ProtocolError(InstanceError):
    """The instance does not speak the function's contract."""

    reason = "PROTOCOL_ERROR"
