"""The messages of the API that callers meet, all in one place.

They are the generated ones: what a field means, its unit, limit and default, stands in the
protos and in the stubs beside the generated code.
"""

from __future__ import annotations

from skybridge.faas.v1.dead_letter_pb2 import DeadLetter
from skybridge.faas.v1.dead_letter_service_pb2 import RedriveDeadLettersResponse, RefusedRedrive
from skybridge.faas.v1.execution_pb2 import (
    Attempt,
    Delivery,
    DeliveryState,
    Execution,
    ExecutionEvent,
    ExecutionState,
    Failure,
    FailureReason,
    Gap,
    GapReason,
    InputAck,
    Output,
    OutputStream,
    Result,
    StateChange,
    Timings,
    Usage,
)
from skybridge.faas.v1.execution_service_pb2 import (
    ExecutionView,
    OnDisconnect,
    ReadLogsResponse,
    Signal,
)
from skybridge.faas.v1.function_pb2 import (
    Contract,
    ContractKind,
    Durability,
    Function,
    FunctionSpec,
    FunctionState,
    InputMode,
    Isolation,
    Network,
    PullPolicy,
    Resources,
    Reuse,
    Revision,
    Scaling,
    Timeouts,
)
from skybridge.faas.v1.function_service_pb2 import (
    DeployFunctionResponse,
    DeploymentPhase,
    LayerProgress,
    RegistryCredentials,
)
from skybridge.faas.v1.instance_pb2 import Instance, InstanceState
from skybridge.faas.v1.metrics_service_pb2 import (
    FailureCount,
    FunctionMetrics,
    LatencySummary,
    StateCount,
)
from skybridge.faas.v1.schedule_pb2 import OverlapPolicy, Schedule, ScheduleOptions
from skybridge.faas.v1.secret_pb2 import Secret
from skybridge.faas.v1.system_service_pb2 import (
    GetSystemInfoResponse,
    Limits,
    PulledImage,
    PullImageResponse,
    Runtime,
    RuntimeState,
)
from skybridge.faas.v1.token_pb2 import Role, Token
from skybridge.faas.v1.token_service_pb2 import CreateTokenResponse, GetCallerResponse

__all__ = [
    "Attempt",
    "Contract",
    "ContractKind",
    "CreateTokenResponse",
    "DeadLetter",
    "Delivery",
    "DeliveryState",
    "DeployFunctionResponse",
    "DeploymentPhase",
    "Durability",
    "Execution",
    "ExecutionEvent",
    "ExecutionState",
    "ExecutionView",
    "Failure",
    "FailureCount",
    "FailureReason",
    "Function",
    "FunctionMetrics",
    "FunctionSpec",
    "FunctionState",
    "Gap",
    "GapReason",
    "GetCallerResponse",
    "GetSystemInfoResponse",
    "InputAck",
    "InputMode",
    "Instance",
    "InstanceState",
    "Isolation",
    "LatencySummary",
    "LayerProgress",
    "Limits",
    "Network",
    "OnDisconnect",
    "Output",
    "OutputStream",
    "OverlapPolicy",
    "PullImageResponse",
    "PullPolicy",
    "PulledImage",
    "ReadLogsResponse",
    "RedriveDeadLettersResponse",
    "RefusedRedrive",
    "RegistryCredentials",
    "Resources",
    "Result",
    "Reuse",
    "Revision",
    "Role",
    "Runtime",
    "RuntimeState",
    "Scaling",
    "Schedule",
    "ScheduleOptions",
    "Secret",
    "Signal",
    "StateChange",
    "StateCount",
    "Timeouts",
    "Timings",
    "Token",
    "Usage",
]
