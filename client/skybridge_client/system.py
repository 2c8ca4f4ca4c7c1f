"""The calls about the server, its engines, and what functions did."""

from __future__ import annotations

from collections.abc import Sequence

from skybridge.faas.v1.function_service_pb2 import RegistryCredentials
from skybridge.faas.v1.metrics_service_pb2 import FunctionMetrics, GetFunctionMetricsRequest
from skybridge.faas.v1.system_service_pb2 import (
    DrainServerRequest,
    DrainServerResponse,
    GetSystemInfoRequest,
    GetSystemInfoResponse,
    ListRuntimesRequest,
    PullImageRequest,
    PullImageResponse,
    Runtime,
    ShutdownPolicy,
)
from skybridge_client.calls import Stream, Unary, duration, stream, unary, whole

_POLICIES = {
    None: ShutdownPolicy.SHUTDOWN_POLICY_UNSPECIFIED,
    False: ShutdownPolicy.SHUTDOWN_POLICY_CANCEL,
    True: ShutdownPolicy.SHUTDOWN_POLICY_HANDOVER,
}


def metrics(
    function: str, *, window: float | None = None, timeout: float | None = None
) -> Unary[FunctionMetrics]:
    """Sums up the executions of a function over the last `window` seconds; default: 1 h.

    Raises InvalidArgumentError, NotFoundError.
    """
    request = GetFunctionMetricsRequest(name=function, window=duration(window))
    return unary(lambda s: s.metrics.GetFunctionMetrics, request, lambda a: a.metrics, timeout)


def system_info(*, timeout: float | None = None) -> Unary[GetSystemInfoResponse]:
    """Returns versions, limits and load of the server."""
    return unary(lambda s: s.system.GetSystemInfo, GetSystemInfoRequest(), whole, timeout)


def runtimes(*, timeout: float | None = None) -> Unary[Sequence[Runtime]]:
    """Returns the container engines of the server and their state."""
    request = ListRuntimesRequest()
    return unary(lambda s: s.system.ListRuntimes, request, lambda a: a.runtimes, timeout)


def pull_image(
    image: str,
    *,
    runtime: str = "",
    registry_credentials: RegistryCredentials | None = None,
    timeout: float | None = None,
) -> Stream[PullImageResponse]:
    """Pulls an image ahead of a deployment: gives the progress, and last the `image`.

    Raises InvalidArgumentError, FailedPreconditionError (image missing or refused),
    UnavailableError.
    """
    request = PullImageRequest(
        image=image, runtime=runtime, registry_credentials=registry_credentials
    )
    return stream(lambda s: s.system.PullImage, request, whole, timeout)


def drain(
    *, grace: float | None = None, handover: bool | None = None, timeout: float | None = None
) -> Unary[DrainServerResponse]:
    """Stops the server: it takes no more calls, and what runs may end within `grace` seconds.

    What runs longer is handed over to the server's next start, or cancelled; None: as configured.
    Returns at once, with how many executions run and wait. Raises InvalidArgumentError.
    """
    policy = _POLICIES[handover]
    request = DrainServerRequest(grace=duration(grace), policy=policy)
    return unary(lambda s: s.system.DrainServer, request, whole, timeout)
