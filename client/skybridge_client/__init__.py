"""Typed clients of Skybridge FaaS: `Client` for threads, `AsyncClient` for coroutines.

    from skybridge_client import Client

    with Client() as client:
        client.create_function("hello", image="busybox", args=["echo", "hello, world"])
        for step in client.deploy("hello"):
            print(step)
        print(client.execute("hello").output)

Errors are in `skybridge_client.errors` and here; messages such as Function, Execution and
ExecutionEvent are the generated ones, all in `skybridge_client.messages`.
"""

from __future__ import annotations

from skybridge_client.aio import AsyncClient
from skybridge_client.channel import TlsConfig
from skybridge_client.client import Client
from skybridge_client.errors import (
    AbortedError,
    AlreadyExistsError,
    CallCancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SkybridgeError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    Violation,
)
from skybridge_client.executions import is_final
from skybridge_client.invocations import Answer, Invocation
from skybridge_client.messages import (
    Execution,
    ExecutionEvent,
    ExecutionState,
    FailureReason,
    Function,
    FunctionSpec,
    FunctionState,
    OutputStream,
    RegistryCredentials,
    Revision,
    Schedule,
    Signal,
)
from skybridge_client.patience import Patience

__version__ = "0.1.0"

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "Answer",
    "AsyncClient",
    "CallCancelledError",
    "Client",
    "DataLossError",
    "DeadlineExceededError",
    "Execution",
    "ExecutionEvent",
    "ExecutionState",
    "FailedPreconditionError",
    "FailureReason",
    "Function",
    "FunctionSpec",
    "FunctionState",
    "InternalError",
    "InvalidArgumentError",
    "Invocation",
    "NotFoundError",
    "OutOfRangeError",
    "OutputStream",
    "Patience",
    "PermissionDeniedError",
    "RegistryCredentials",
    "ResourceExhaustedError",
    "Revision",
    "Schedule",
    "Signal",
    "SkybridgeError",
    "TlsConfig",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Violation",
    "is_final",
]
